"""Prediction drift: does the candidate predict other classes than stable, on the same traffic? (docs/analysis.md)

No one knows the right answers here, so drift is not bad by itself: a person is asked, unless the spec says how far is
too far. Counted are the answers of one attempt, dealt by stable's pods at random: both sides see the same mix.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from modelramp.api.drift import Drift
from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain.distance import Classes, Comparison, Side
from modelramp.domain.eprocess import least
from modelramp.domain.evidence import Settings
from modelramp.domain.router import Tally
from modelramp.domain.turn import Turn
from modelramp.domain.verdict import FAR, percent

DRIFT, PAUSED = "drift", "PredictionDrift"
LEAST_LOOKS = 8
"""Before so many looks nothing is certain: how unevenly the answers fall is not known yet."""

Counters = Mapping[str, Classes]  # by container


@dataclass(frozen=True)
class Memory:
    """What is remembered between looks: the comparison, the limit that it is against, and the pods' counters."""

    limit: float = 0.0
    comparison: Comparison = field(default_factory=Comparison)
    candidate: Counters = field(default_factory=dict)
    stable: Counters = field(default_factory=dict)

    def dump(self) -> str:
        it = self.comparison
        tests = {
            "candidate": [it.candidate.looks, it.candidate.counts, it.candidate.squares],
            "stable": [it.stable.looks, it.stable.counts, it.stable.squares],
            "looks": it.looks,
            "pairs": it.pairs,
            "excess": it.excess,
        }
        whole = {"limit": self.limit, "tests": tests, "candidate": self.candidate, "stable": self.stable}
        return json.dumps(whole, separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> "Memory":
        """Starts afresh from anything that this release did not write."""
        try:
            data = json.loads(text)
            tests = data["tests"]
            candidate, stable = Side(*tests["candidate"]), Side(*tests["stable"])
            comparison = Comparison(candidate, stable, tests["looks"], tests["pairs"], tests["excess"])
            return cls(data["limit"], comparison, data["candidate"], data["stable"])
        except (ValueError, KeyError, TypeError):
            return cls()


def judged(asked: Drift) -> bool:
    """Whether a distance over the limit fails the candidate, and one under it is part of a Pass."""
    return asked.enabled and asked.max is not None


def look(turn: Turn, before: EvidenceStatus | None, tally: Tally, alpha: float, asked: Drift) -> EvidenceStatus | None:
    """The evidence after this look. None where nothing is asked, and where no pod knows of a class and nothing needs
    one: there is nothing to remember either."""
    if not asked.enabled:
        return None
    memory = Memory.load(before.state if before else "")
    limit = asked.max if asked.max is not None else (turn.candidate.drift_accepted or 0.0) + asked.pause_above
    candidate = {container: counts.candidate_classes for container, counts in tally.counters.items()}
    stable = {container: counts.stable_classes for container, counts in tally.counters.items()}
    comparison = memory.comparison if memory.limit == limit else Comparison()
    classes = any([*memory.candidate.values(), *memory.stable.values(), *candidate.values(), *stable.values()])
    if not judged(asked) and not classes:
        return None
    fresh = fresh_of(memory.candidate, candidate, tally.born), fresh_of(memory.stable, stable, tally.born)
    comparison = comparison.add(*fresh)
    names = {pod.name for pod in turn.world.pods}
    kept = [
        {container: counts for container, counts in each.items() if container.partition("@")[0] in names}
        for each in ({**memory.candidate, **candidate}, {**memory.stable, **stable})
    ]
    evidence = report(turn, before, comparison, limit, alpha, sum(fresh[0].values()), told=not tally.missing)
    return evidence.model_copy(update={"state": Memory(limit, comparison, *kept).dump()})


def fresh_of(before: Counters, now: Counters, born: Collection[str]) -> Classes:
    """What was counted since the last look, over all containers. A counter that fell begins anew; one that is neither
    known nor `born` since is a baseline."""
    fresh: dict[str, int] = {}
    for container, counts in now.items():
        if container not in before and container not in born:
            continue
        known = before.get(container, {})
        for name, count in counts.items():
            seen = known.get(name, 0)
            fresh[name] = fresh.get(name, 0) + (count - seen if count >= seen else count)
    return fresh


def report(
    turn: Turn,
    before: EvidenceStatus | None,
    comparison: Comparison,
    limit: float,
    alpha: float,
    requests: int,
    *,
    told: bool,
) -> EvidenceStatus:
    """The evidence as people read it; `requests` of the candidate are new since the last look."""
    verdict = judge(comparison, limit, alpha) if told else Verdict.ERROR
    since = before.looked_at if before else turn.candidate.started_at
    seconds = (turn.now - since).total_seconds() if since else 0.0
    needed = needed_below(comparison, limit, alpha)
    return EvidenceStatus(
        metric=DRIFT,
        verdict=verdict,
        message=message(comparison, limit, alpha, verdict),
        requests=comparison.candidate.answers,
        stable_requests=comparison.stable.answers,
        distance=round(comparison.distance, 4) if comparison.pairs else None,
        requests_needed=needed,
        seconds_needed=round(needed * seconds / requests) if needed is not None and requests else None,
        looked_at=turn.now,
    )


def judge(comparison: Comparison, limit: float, alpha: float) -> Verdict:
    """Fail: certainly farther than the limit. Pass: certainly less far."""
    threshold = Settings(alpha=alpha).threshold
    if comparison.looks < LEAST_LOOKS:
        return Verdict.INCONCLUSIVE
    if comparison.log_above(limit) >= threshold:
        return Verdict.FAIL
    return Verdict.PASS if comparison.log_below(limit) >= threshold else Verdict.INCONCLUSIVE


def needed_below(comparison: Comparison, limit: float, alpha: float) -> int | None:
    """How many further answers of the candidate lead to a Pass if all goes on so; None if that leads to none."""
    answers, threshold = comparison.candidate.answers, Settings(alpha=alpha).threshold
    if not comparison.pairs or comparison.distance >= limit:
        return None
    if comparison.log_below(limit) >= threshold:
        return 0
    return least(lambda n: comparison.log_below(limit, n / answers) >= threshold, FAR)


def message(comparison: Comparison, limit: float, alpha: float, verdict: Verdict) -> str:
    candidate, stable = comparison.candidate, comparison.stable
    if verdict is Verdict.ERROR:
        return "no stable pod tells what is predicted: nothing can be compared"
    if not comparison.pairs:
        counted = f"{candidate.answers} answers of the candidate and {stable.answers} of stable tell a class"
        return f"{counted}: the predictions can't be compared yet"
    sides = (
        f"what {candidate.answers} answers of the candidate predict is {comparison.distance:.2f} away from "
        f"{stable.answers} of stable ({moved(comparison)})"
    )
    confidence = f"with confidence {100 * (1 - alpha):.4g} %"
    if verdict is Verdict.FAIL:
        return f"{sides}: more than {limit:g} {confidence}"
    return f"{sides}: less than {limit:g} {confidence}" if verdict is Verdict.PASS else f"{sides}: not decided"


def moved(comparison: Comparison) -> str:
    """The two classes whose shares differ most."""
    most = sorted(comparison.excess, key=lambda name: (-abs(comparison.excess[name]), name))[:2]
    each = [
        f"class {name}: {percent(comparison.stable.share(name))} to {percent(comparison.candidate.share(name))}"
        for name in most
    ]
    return ", ".join(each)


def found(turn: Turn) -> str | None:
    """What a person is to be asked about, if so."""
    if judged(turn.snap.spec.rollout.analysis.objectives.drift):
        return None
    told = [e for e in turn.status.evidence if e.metric == DRIFT and e.verdict is Verdict.FAIL]
    return told[0].message if told else None


def accept(turn: Turn) -> None:
    """A person has let it pass: from now on what counts is how much farther it gets."""
    told = next((e for e in turn.status.evidence if e.metric == DRIFT), None)
    if told is None:
        return
    quiet = told.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "message": f"let pass: {told.message}"})
    turn.set(
        candidate=turn.candidate.model_copy(update={"drift_accepted": told.distance}),
        evidence=[quiet if e.metric == DRIFT else e for e in turn.status.evidence],
    )
