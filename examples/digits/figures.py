"""What a person wants to see at one moment: sides, weight, verdict, clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelramp.api.base import format_duration
from modelramp.api.spec import Rollout, Spec
from modelramp.api.status import Status

from .answers import Answer, Tally, by_version, tally
from .watch import World

LATELY = 5.0  # seconds of answers that shares and live accuracy are taken from


@dataclass(frozen=True)
class Side:
    """One version as it is now. share: percent of recent answers. errors: bad ones of requests, as analysed."""

    version: int
    role: str
    share: float
    accuracy: float | None
    given: int
    errors: str


def shortened(spec: Spec) -> str:
    """Which settings of the rollout differ from the shipped defaults, in words."""
    mine, shipped = spec.rollout, Rollout()
    parts = [
        f"{name} {format_duration(value)} ({format_duration(default)})"
        for name, value, default in (
            ("hold", mine.steps[0].hold, shipped.steps[0].hold),
            ("bake", mine.bake, shipped.bake),
            ("progressDeadline", mine.progress_deadline, shipped.progress_deadline),
            ("scaleDownDelay", mine.scale_down_delay, shipped.scale_down_delay),
        )
        if value is not None and default is not None and value != default
    ]
    analysis = "with the shipped defaults" if mine.analysis == shipped.analysis else "NOT with the defaults"
    return f"shortened (default): {', '.join(parts)}. The analysis runs {analysis}."


def lately(answers: Sequence[Answer], now: float) -> list[Answer]:
    """The answers sent within the last seconds; `answers` are in the order in which they came."""
    recent: list[Answer] = []
    for answer in reversed(answers):
        if answer.done < now - LATELY:
            break
        recent.append(answer)
    return recent


def sides(world: World, now: float) -> list[Side]:
    """Every version that is stable or candidate, or has answered of late."""
    status, recent = world.status, lately(world.answers, now)
    answered = by_version(recent)
    roles = _roles(status)
    return [
        Side(
            version,
            roles.get(version, "former"),
            100 * len(answered.get(version, ())) / len(recent) if recent else 0.0,
            tally(answered.get(version, ())).accuracy,
            sum(answer.version == version for answer in world.answers),
            _errors(status, roles.get(version, "")),
        )
        for version in sorted({*answered, *roles})
    ]


def _roles(status: Status) -> dict[int, str]:
    roles = {rejected.version: "rejected" for rejected in status.rejected}
    if status.stable:
        roles[status.stable.version] = "stable"
    if status.candidate:
        roles[status.candidate.version] = "candidate"
    return roles


def _errors(status: Status, role: str) -> str:
    if not status.evidence or role not in ("stable", "candidate"):
        return ""
    it = status.evidence[0]
    bad, requests = (it.bad, it.requests) if role == "candidate" else (it.stable_bad, it.stable_requests)
    return f"{bad} of {requests:,} ({100 * bad / requests:.2f} %)" if requests else "none yet"


def weight(status: Status) -> str:
    """The weight wanted, whether it is in force, and what the operator measures."""
    step = status.step
    if step is None:
        return "everything goes to stable" if status.stable else "no traffic yet"
    force = "in force" if step.in_force_since else "not yet in force"
    measured = f", measured {step.achieved_weight:.2f} %" if step.achieved_weight is not None else ""
    return f"{status.traffic.weight} % {force}{measured}"


def verdict(status: Status) -> str:
    if not status.evidence:
        return "nothing to judge"
    it = status.evidence[0]
    if it.requests_needed:
        time = f", about {it.seconds_needed} s" if it.seconds_needed is not None else ""
        return f"{it.verdict.value}: {it.requests_needed:,} more good requests needed{time}"
    return f"{it.verdict.value}: {it.message}"


def clients(world: World) -> Tally:
    return tally(list(world.answers))
