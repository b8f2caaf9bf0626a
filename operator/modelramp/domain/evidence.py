"""The memory of a rollout's analysis: what each look at candidate and stable adds to the evidence.

One `EvidenceState` per metric. It is small and plain, so that it lives in an object's status and the analysis
goes on where a killed operator left it; verdict.py reads it. The same code serves errors and latency: a
request that was too slow is one more kind of bad. How and why: docs/analysis.md.

A warm-up is skipped by taking the first counters as baseline after it.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import Any

from modelramp.domain.counts import NOTHING, Counts
from modelramp.domain.eprocess import Suspicion, rate_increment, ratio_increment

WORSE = ((1.5, 0.05), (2.0, 0.30), (3.0, 0.30), (5.0, 0.15), (10.0, 0.10), (30.0, 0.06), (100.0, 0.04))
"""Fail: how many times worse the candidate may be: (factor, weight). What is much worse is found at once at any weight,
and what is less than twice as bad is within the limit: the weight is where it shortens the search."""

BELOW_RATE = ((1 / 20, 0.50), (1 / 5, 0.25), (1 / 2, 0.04), (4 / 5, 0.01))
BELOW_STABLE = ((1 / 5, 0.05), (1 / 2, 0.12), (4 / 5, 0.03))
"""Pass: how far the candidate may be below the limit on its rate, and below `margin` times stable's rate:
(factor, weight). The weights of both sum to 1: one e-process, one alpha."""

COMPARABLE = 0.1
"""With fewer stable requests than this per candidate request there is nobody to compare with."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of one metric. Raises ValueError for values that make no test.

    alpha: probability of a wrong Fail, and of a wrong Pass, over the whole rollout, however many looks.
    objective: the rate of bad requests that is acceptable whatever stable does.
    margin: how many times stable's rate is acceptable.
    event: what a bad request did, for the reason ("candidate {event} 3 of 100 requests").
    most_per_look: what one look adds at most to the logarithm of the Fail test, so that no single bad moment decides.
    """

    alpha: float = 0.05
    objective: float = 0.01
    margin: float = 2.0
    event: str = "failed"
    most_per_look: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.alpha < 1 and 0 < self.objective < 1 and self.margin > 1):
            raise ValueError("alpha and objective must lie between 0 and 1, margin above 1")

    @property
    def threshold(self) -> float:
        """log(1/alpha): what the logarithm of an e-process must reach."""
        return -math.log(self.alpha)


def split_alpha(alpha: float, metrics: int) -> float:
    """Each metric's part of alpha, so that all of them together are wrong with probability at most alpha."""
    return alpha / metrics


@dataclass(frozen=True, slots=True)
class EvidenceState:
    """What the looks so far say about one metric. The fields below `dispersion` are the tests' memory."""

    candidate: Counts = NOTHING
    stable: Counts = NOTHING
    looks: int = 0
    missing: int = 0
    """Looks without data since the last one with data."""
    dispersion: float = 1.0
    effective_requests: float = 0.0
    effective_bad: float = 0.0
    """The candidate's counts, each interval's divided by its dispersion."""
    below_stable: tuple[float, ...] = (0.0,) * len(BELOW_STABLE)
    """log E per alternative of BELOW_STABLE."""
    telling_looks: int = 0
    worse: tuple[Suspicion, ...] = (Suspicion(),) * len(WORSE)
    """One per alternative of WORSE, after as many `telling_looks`."""

    def to_dict(self) -> dict[str, Any]:
        """Compact JSON (under 2 KB; no NaN, no infinity). `from_dict` gives back an equal state."""
        return {
            "candidate": [self.candidate.requests, self.candidate.bad],
            "stable": [self.stable.requests, self.stable.bad],
            "looks": [self.looks, self.missing, self.telling_looks],
            "dispersion": self.dispersion,
            "effective": [self.effective_requests, self.effective_bad],
            "belowStable": list(self.below_stable),
            "worse": [list(astuple(each)) for each in self.worse] if self.telling_looks else [],
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> EvidenceState:
        """Raises ValueError if `data` is not what `to_dict` of this release writes: begin afresh then."""
        try:
            looks, missing, telling_looks = map(int, data["looks"])
            effective_requests, effective_bad = map(float, data["effective"])
            below_stable = tuple(map(float, data["belowStable"]))
            worse = tuple(Suspicion(*map(float, each)) for each in data["worse"] or [()] * len(WORSE))
            state = EvidenceState(
                candidate=Counts(*map(int, data["candidate"])),
                stable=Counts(*map(int, data["stable"])),
                looks=looks,
                missing=missing,
                dispersion=float(data["dispersion"]),
                effective_requests=effective_requests,
                effective_bad=effective_bad,
                below_stable=below_stable,
                telling_looks=telling_looks,
                worse=worse,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an evidence state: {error!r}") from error
        if len(below_stable) != len(BELOW_STABLE) or len(worse) != len(WORSE):
            raise ValueError("an evidence state with other alternatives than this release's")
        return state


def update(
    state: EvidenceState,
    candidate: Counts | None,
    stable: Counts | None,
    dispersion: float,
    settings: Settings,
    refused: int = 0,
) -> EvidenceState:
    """Add one look. None means no data (source down, only infrastructure errors): nothing is learnt from it.

    `dispersion` is stable's index of dispersion (counts.dispersion_index); below 1 it counts as 1. `refused` requests
    of stable's are no evidence, but it had them: the candidate is not alone.
    """
    if candidate is None or stable is None:
        return replace(state, missing=state.missing + 1)
    dispersion = max(1.0, dispersion)
    alone = stable.requests + refused < COMPARABLE * candidate.requests
    state = replace(
        _suspect(state, candidate, stable, alone, dispersion, settings),
        candidate=state.candidate + candidate,
        stable=state.stable + stable,
        looks=state.looks + 1,
        missing=0,
        dispersion=dispersion,
        effective_requests=state.effective_requests + candidate.requests / dispersion,
        effective_bad=state.effective_bad + candidate.bad / dispersion,
    )
    gains = (
        ratio_increment(candidate, stable, settings.margin * factor, settings.margin) / dispersion
        for factor, _ in BELOW_STABLE
    )
    return replace(state, below_stable=tuple(map(sum, zip(state.below_stable, gains, strict=True))))


def _suspect(
    state: EvidenceState, candidate: Counts, stable: Counts, alone: bool, dispersion: float, settings: Settings
) -> EvidenceState:
    """The Fail test's step. Which null is tested depends on the traffic alone, never on the bad answers."""
    if not candidate.requests:
        return state
    if not alone and not (stable.requests and candidate.bad + stable.bad):
        return state
    if alone:
        limit = min(0.5, max(settings.objective, settings.margin * state.stable.rate))
        increments = [
            rate_increment(candidate.requests, candidate.bad, min(rho * limit, (1 + limit) / 2), limit)
            for rho, _ in WORSE
        ]
    else:
        increments = [ratio_increment(candidate, stable, rho, 1.0) for rho, _ in WORSE]
    look = state.telling_looks
    worse = tuple(
        each.advance(look, min(increment / dispersion, settings.most_per_look), candidate, stable)
        for each, increment in zip(state.worse, increments, strict=True)
    )
    return replace(state, telling_looks=look + 1, worse=worse)
