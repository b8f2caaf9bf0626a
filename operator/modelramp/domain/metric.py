"""What all metrics of the analysis share: the memory between looks, and how it is told in status.evidence."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain.counts import Counts
from modelramp.domain.evidence import EvidenceState, Settings
from modelramp.domain.turn import Turn
from modelramp.domain.verdict import verdict
from modelramp.domain.world import Pod, SplitCounts

BySide = Mapping[str, Mapping[str, Counts]]
NO_SPLIT = ""
"""The salt of what a pod answered itself while nothing was split."""


@dataclass(frozen=True)
class Memory:
    """What one metric remembers between looks: the tests' state, the pods' counters at the last look by side and
    container, and what else the metric has noted for the attempt."""

    state: EvidenceState
    counters: BySide
    noted: Mapping[str, float] = field(default_factory=dict)

    def dump(self) -> str:
        counters = {side: {k: [c.requests, c.bad] for k, c in of.items()} for side, of in self.counters.items()}
        return json.dumps({"tests": self.state.to_dict(), "noted": dict(self.noted), **counters}, separators=(",", ":"))

    @classmethod
    def load(cls, text: str, sides: Collection[str]) -> "Memory":
        """Starts afresh from anything that this release did not write."""
        try:
            data = json.loads(text)
            counters = {side: {k: Counts(*c) for k, c in data[side].items()} for side in sides}
            noted = {name: float(value) for name, value in data.get("noted", {}).items()}
            return cls(EvidenceState.from_dict(data["tests"]), counters, noted)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls.new(sides)

    @classmethod
    def new(cls, sides: Collection[str]) -> "Memory":
        return cls(EvidenceState(), {side: {} for side in sides})

    def of_stable(self) -> "Memory":
        """Without anything about a candidate."""
        return Memory(EvidenceState(stable=self.state.stable, dispersion=self.state.dispersion), {}, self.noted)

    def advance(self, state: EvidenceState, current: BySide, noted: Mapping[str, float], pods: Collection[Pod]) -> str:
        """Takes over the counters just read, forgets pods that are gone, and returns the dump."""
        names = {pod.name for pod in pods}
        merged = {side: {**self.counters[side], **current[side]} for side in current}
        kept = {side: {k: c for k, c in of.items() if k.partition("@")[0] in names} for side, of in merged.items()}
        return Memory(state, kept, noted).dump()


def refusals_as_bad(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """Those that tell what they count, with their refusals among what is bad."""
    told = ((pod, pod.metrics) for pod in pods)
    return tuple(replace(pod, metrics=metrics.refusals_as_bad()) for pod, metrics in told if metrics is not None)


def by_container(pods: Collection[Pod], attempt: str) -> dict[str, SplitCounts]:
    """What each container has counted for the attempt. A restart begins a container's life anew."""
    told = [(pod.name, pod.metrics) for pod in pods if pod.metrics is not None]
    return {f"{name}@{m.started:.0f}": m.splits[attempt] for name, m in told if attempt in m.splits}


def report(
    turn: Turn, metric: str, before: EvidenceStatus | None, state: EvidenceState, settings: Settings, requests: int
) -> EvidenceStatus:
    """The evidence as people read it; `requests` of the candidate are new since the last look."""
    judged = verdict(state, settings)
    since = before.looked_at if before else turn.candidate.started_at
    seconds = (turn.now - since).total_seconds() if since else 0.0
    needed = judged.requests_needed
    return EvidenceStatus(
        metric=metric,
        verdict=Verdict(judged.outcome.value),
        message=judged.reason,
        requests=state.candidate.requests,
        bad=state.candidate.bad,
        rate=round(judged.candidate_rate, 6),
        stable_requests=state.stable.requests,
        stable_bad=state.stable.bad,
        stable_rate=round(judged.stable_rate, 6),
        requests_needed=needed,
        seconds_needed=math.ceil(needed * seconds / requests) if needed is not None and requests else None,
        looked_at=turn.now,
    )
