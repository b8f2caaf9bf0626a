"""A stand-in for what stable's pods count: the Metrics port on a virtual clock, fed by the pods' split annotations."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from modelramp.domain.world import Pod, PodMetrics, SplitCounts


@dataclass
class VirtualClock:
    """The Clock port; time passes only in ``advance``."""

    start: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    seconds: float = 0.0

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class _Counters:
    """One pod's server: since when, the split that it acts on, and what it dealt."""

    began: float
    counted_to: float
    heard: float = 0.0
    generation: int = 0
    weight: int = 0
    salt: str = ""
    candidate: str = ""
    dealt: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    bad_sum: float = 0.0

    def hear(self, split: Mapping[str, Any], now: float) -> None:
        if split["generation"] > self.generation:
            self.generation, self.heard = split["generation"], now
        in_force = split["ttl"] is None or now - self.heard < split["ttl"]
        self.weight = split["weight"] if in_force else 0
        self.salt = split["salt"] if self.weight else ""
        self.candidate = split["revision"]

    def deal(self, requests: float, stable_bad: float, candidate_bad: float) -> None:
        counts, handed = self.dealt[self.salt], requests * self.weight / 100
        counts["candidate_bad"] += handed * candidate_bad
        counts["candidate_ok"] += handed * (1 - candidate_bad)
        counts["stable_bad"] += (requests - handed) * stable_bad
        counts["stable_ok"] += (requests - handed) * (1 - stable_bad)
        self.bad_sum += (requests - handed) * stable_bad


@dataclass
class StandInMetrics:
    """``rps`` requests a second, over all pods of a read, dealt by weight; ``error_rates`` by revision, else none.

    Nothing is random: shares and errors are exact, rounded down only where they are told.
    """

    clock: VirtualClock
    rps: float = 100.0
    error_rates: dict[str, float] = field(default_factory=dict)
    _pods: dict[str, _Counters] = field(default_factory=dict)

    async def read(self, namespace: str, pods: Iterable[Pod]) -> Mapping[str, PodMetrics]:
        listed = list(pods)
        return {pod.name: self._read(f"{namespace}/{pod.name}", pod, len(listed)) for pod in listed}

    def _read(self, name: str, pod: Pod, pods: int) -> PodMetrics:
        now = self.clock.monotonic()
        counters = self._pods.setdefault(name, _Counters(now, now))
        requests = (now - counters.counted_to) * self.rps / pods
        counters.deal(requests, self.error_rates.get(pod.revision, 0.0), self.error_rates.get(counters.candidate, 0.0))
        counters.counted_to = now
        if pod.split:
            counters.hear(json.loads(pod.split), now)
        return PodMetrics(
            generation=counters.generation,
            weight=counters.weight,
            started=(self.clock.start + timedelta(seconds=counters.began)).timestamp(),
            splits={salt: SplitCounts(**whole(counts)) for salt, counts in counters.dealt.items()},
            bad_seconds=now - counters.began,
            bad_sum=counters.bad_sum,
            bad_squares=counters.bad_sum,  # at most one bad answer a second
            failed_sum=counters.bad_sum,
            failed_squares=counters.bad_sum,
        )


def whole(counts: Mapping[str, float]) -> dict[str, Any]:
    return {name: int(value + 1e-9) for name, value in counts.items()}
