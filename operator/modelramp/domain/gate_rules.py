"""Each kind of gate, judged on what was found. What the model owes fails; what somebody else owes waits.

The numbers stand in the messages: they are what a person reads in status and in the rejection's reason.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelramp.api.gates import MetricGate, TagGate
from modelramp.api.status import GateState
from modelramp.domain.findings import Metrics, NoExample, Signature, Smoked, SmokeTest, Tags, Tensor
from modelramp.domain.world import Unreachable

NOT_ASKED = "not asked yet"
NON_FINITE = ("NaN", "Infinity", "-Infinity")  # as the server writes them; JSON has no such numbers
UNAVAILABLE = 503  # loading, draining, or a full queue
ONLY_INPUT = "input"  # a model with one input answers to this name too (docs/contract.md)
NUMBER = re.compile(r"(U?INT|FP)([0-9]{1,3})")
NAMES_LISTED = 10
LONGEST_VALUE = 60


@dataclass(frozen=True)
class Outcome:
    state: GateState
    reason: str
    message: str


def passed(message: str) -> Outcome:
    return Outcome(GateState.PASSED, "Passed", message)


def failed(message: str, reason: str = "GateFailed") -> Outcome:
    return Outcome(GateState.FAILED, reason, message)


def waiting(reason: str, message: str) -> Outcome:
    return Outcome(GateState.WAITING, reason, message)


def metric(gate: MetricGate, found: Metrics, stable: Metrics, *, alone: bool) -> Outcome:
    """``alone``: there is no stable to compare with."""
    if found is None:
        return waiting("Gating", NOT_ASKED)
    if isinstance(found, Unreachable):
        return waiting("RegistryUnavailable", found.message)
    value = found.get(gate.name)
    if value is None:
        return failed(f"the run has no metric {gate.name} (it has: {_listed(found)}); log it in the run")
    if gate.min is not None and not value >= gate.min:
        return failed(f"{gate.name} is {value:.6g}, it must be at least {gate.min:.6g}")
    if gate.max is not None and not value <= gate.max:
        return failed(f"{gate.name} is {value:.6g}, it must be at most {gate.max:.6g}")
    if gate.not_worse_than_stable_by is None:
        return passed(f"{gate.name} is {value:.6g}")
    if alone:
        return passed(f"{gate.name} is {value:.6g}; there is no stable version to compare with")
    return _beside_stable(gate, value, gate.not_worse_than_stable_by, stable)


def _beside_stable(gate: MetricGate, value: float, allowed: float, stable: Metrics) -> Outcome:
    if stable is None:
        return waiting("Gating", NOT_ASKED)
    if isinstance(stable, Unreachable):
        return waiting("RegistryUnavailable", stable.message)
    reference = stable.get(gate.name)
    if reference is None or not math.isfinite(reference):
        return passed(f"{gate.name} is {value:.6g}; stable's run has no such number to compare with")
    worse = reference - value if gate.higher_is_better else value - reference
    told = f"{gate.name} is {value:.6g}, stable's is {reference:.6g}"
    if worse <= allowed or math.isclose(worse, allowed, rel_tol=1e-9):
        return passed(told)
    return failed(f"{told}: worse by {worse:.6g}, allowed is {allowed:.6g}")


def tag(gate: TagGate, found: Tags) -> Outcome:
    """Never fails: whoever sets the tag may not be done yet."""
    if found is None:
        return waiting("Gating", NOT_ASKED)
    if isinstance(found, Unreachable):
        return waiting("RegistryUnavailable", found.message)
    value = found.get(gate.name)
    if value == gate.value:
        return passed(f"{gate.name} is {_short(value)}")
    has = "has no such tag" if value is None else f"says {_short(value)}"
    return waiting("AwaitingTag", f"set tag {gate.name} to {_short(gate.value)} on the model version; it {has}")


def inputs(candidate: Signature, stable: Signature, *, alone: bool) -> Outcome:
    """The candidate must accept whatever stable accepts."""
    if alone:
        return passed("there is no stable version to compare with")
    for found in (candidate, stable):
        if isinstance(found, Unreachable):
            return waiting("PodUnreachable", found.message)
    if not isinstance(candidate, tuple) or not isinstance(stable, tuple):
        return waiting("Gating", f"{NOT_ASKED}: a ready pod of both sides is needed")
    if not candidate or not stable:
        return passed(f"the {'candidate' if stable else 'stable version'} does not tell its inputs")
    wrong = incompatible(candidate, stable)
    if wrong:
        return failed(f"{wrong}; spec.rollout.gates.inputs: Any allows it")
    return passed("the candidate accepts what stable accepts")


def incompatible(candidate: tuple[Tensor, ...], stable: tuple[Tensor, ...]) -> str:
    """What stable accepts and the candidate does not, or ""."""
    if len(stable) == len(candidate) == 1 and stable[0].name == ONLY_INPUT:
        return _narrower(candidate[0], stable[0])
    accepted, known = {t.name: t for t in candidate}, {t.name for t in stable}
    if missing := sorted(known - accepted.keys()):
        return f"input {_short(missing[0])} is gone (there are: {_listed(accepted)})"
    if new := sorted(accepted.keys() - known):
        return f"input {_short(new[0])} is new and must be given"
    return next(filter(None, (_narrower(accepted[t.name], t) for t in stable)), "")


def _narrower(candidate: Tensor, stable: Tensor) -> str:
    name = _short(stable.name)
    if not _widens(stable.datatype, candidate.datatype):
        return f"input {name} was {stable.datatype} and is {candidate.datatype}"
    general = len(candidate.shape) == len(stable.shape) and all(
        size in (-1, before) for size, before in zip(candidate.shape, stable.shape, strict=True)
    )
    return "" if general else f"input {name} had shape {list(stable.shape)} and has {list(candidate.shape)}"


def _widens(given: str, wanted: str) -> bool:
    """As the server decides it: the same kind of number, at least as many bits."""
    one, other = NUMBER.fullmatch(given), NUMBER.fullmatch(wanted)
    if one is None or other is None:
        return given == wanted
    return one[1] == other[1] and int(one[2]) <= int(other[2])


def smoke(test: SmokeTest, found: Smoked) -> Outcome:
    if found is None:
        return waiting("Gating", f"{NOT_ASKED}: a ready pod is needed")
    if isinstance(found, Unreachable):
        return waiting("PodUnreachable", found.message)
    if isinstance(found, NoExample):
        return passed("the model was logged without an input example")
    if found.status == UNAVAILABLE:
        return waiting("PodUnreachable", f"the pod answered {found.status}: {_error(found.body)}")
    if not found.ok:
        return failed(f"the candidate answered {found.status}: {_error(found.body)}", "SmokeFailed")
    return _answer(test, found.body, found.seconds)


def _answer(test: SmokeTest, body: Any, seconds: float) -> Outcome:
    strange = non_finite(body)
    if strange:
        return failed(f"the answer has numbers that are not finite ({strange})", "SmokeFailed")
    if test.expect is not None and (wrong := difference(dict(test.expect), body, test.tolerance)):
        return failed(wrong, "SmokeFailed")
    took = f"{seconds * 1000:.4g} ms"
    if test.latency is None:
        return passed(f"answered in {took}")
    allowed = test.latency.total_seconds()
    if seconds > allowed:
        return failed(f"the median of three took {took}, allowed are {allowed * 1000:.4g} ms", "SmokeFailed")
    return passed(f"the median of three took {took}")


def non_finite(body: Any) -> str:
    """The first number in the answer that is none, or "". Not recursive: the answer is the pod's to nest."""
    left = [body]
    while left:
        match left.pop():
            case dict() as fields:
                left += fields.values()
            case list() as items:
                left += items
            case str() as text if text in NON_FINITE:
                return text
            case float() as number if not math.isfinite(number):
                return str(number)
    return ""


def difference(wanted: Any, given: Any, tolerance: float, where: str = "") -> str:
    """Where the answer is not what was expected, or "". Fields of objects that are not expected are free."""
    match wanted, given:
        case dict(), dict():
            missing = next((name for name in wanted if name not in given), None)
            if missing is not None:
                return f"{where or 'the answer'} has no {_short(missing)}"
            return _first(difference(v, given[k], tolerance, f"{where}.{k}".lstrip(".")) for k, v in wanted.items())
        case list(), list() if len(wanted) == len(given):
            pairs = enumerate(zip(wanted, given, strict=True))
            return _first(difference(w, g, tolerance, f"{where}[{index}]") for index, (w, g) in pairs)
        case list(), list():
            return f"{where} has {len(given)} values, expected are {len(wanted)}"
        case (int() | float(), int() | float()) if not isinstance(wanted, bool) and not isinstance(given, bool):
            if math.isclose(wanted, given, rel_tol=tolerance, abs_tol=tolerance):
                return ""
            return f"{where} is {given:.6g}, expected is {wanted:.6g} within {tolerance:.6g}"
    if type(wanted) is type(given) and wanted == given:
        return ""
    return f"{where} is {_short(given)}, expected is {_short(wanted)}"


def _first(found: Any) -> str:
    return next((text for text in found if text), "")


def _error(body: Any) -> str:
    told = body.get("error", body) if isinstance(body, dict) else body
    return " ".join(str(told).split())[:200] or "nothing said"


def _listed(names: Mapping[str, Any]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - NAMES_LISTED} more" if len(listed) > NAMES_LISTED else ""
    return (", ".join(listed[:NAMES_LISTED]) or "none") + more


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
