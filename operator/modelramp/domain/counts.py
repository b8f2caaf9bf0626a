"""From what pods count to what a test may use: intervals from cumulative counters, and how errors cluster.

Counters only rise, except when a container restarts; pods come and go between two looks. What cannot be known
is left out, never guessed, so an interval is never negative and never counts a request twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """`requests` that are evidence about one side in one interval, `bad` of them.

    Used for one container's cumulative counters too. Raises ValueError if the numbers are impossible.
    """

    requests: int
    bad: int

    def __post_init__(self) -> None:
        if not 0 <= self.bad <= self.requests:
            raise ValueError(f"impossible counts: {self.bad} bad of {self.requests} requests")

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.requests + other.requests, self.bad + other.bad)

    @property
    def rate(self) -> float:
        """Bad per request; 0 without requests."""
        return self.bad / self.requests if self.requests else 0.0


NOTHING = Counts(0, 0)


def interval(previous: Mapping[str, Counts], current: Mapping[str, Counts], born: Collection[str] = ()) -> Counts:
    """What happened between two looks at the cumulative counters of the pods of one side, summed over pods.

    A key that is not in `previous` only sets its baseline, unless it is in `born`: known to have started
    after the previous look, so all it has counted is new. A key that vanished contributes nothing more. A
    counter that fell was reset: all it shows now is new. A key that names the container's instance (pod uid
    and restart count) makes resets certain; a pod's name alone misses one that overtakes its old value within
    an interval.
    """
    total = NOTHING
    for key, now in current.items():
        before = previous.get(key, NOTHING if key in born else now)
        total += _since(before, now)
    return total


def _since(before: Counts, now: Counts) -> Counts:
    if now.requests < before.requests or now.bad < before.bad:
        return now
    requests = now.requests - before.requests
    return Counts(requests, min(now.bad - before.bad, requests))


@dataclass(frozen=True, slots=True)
class BadWindow:
    """One pod's bad answers per second over a window, or its bad and refused ones: seconds seen, their sum, the sum of
    their squares."""

    seconds: float
    total: float
    squares: float


def dispersion_index(windows: Iterable[BadWindow]) -> float:
    """Variance over mean of what `windows` count per second, never below 1 (independent errors).

    An upper estimate of how many bad answers share one cause. 1 where there are no errors to tell.
    """
    seen = list(windows)
    seconds, total = math.fsum(w.seconds for w in seen), math.fsum(w.total for w in seen)
    if seconds <= 0 or total <= 0:
        return 1.0
    mean = total / seconds
    return max(1.0, (math.fsum(w.squares for w in seen) / seconds - mean * mean) / mean)


@dataclass(frozen=True, slots=True)
class Unevenness:
    """How unevenly stable's bad requests fall on the looks, where nobody counts them by the second.

    looks: those with requests. squares: sum over them of bad^2 / requests.
    """

    looks: int = 0
    squares: float = 0.0

    def add(self, look: Counts) -> Unevenness:
        if not look.requests:
            return self
        return Unevenness(self.looks + 1, self.squares + look.bad * look.bad / look.requests)

    def index(self, total: Counts) -> float:
        """Index of dispersion of `total`, the sum of the looks: Pearson's chi-square per degree of freedom, never
        below 1. It is 1 for independent requests, whatever the looks' sizes."""
        if self.looks < 2 or not total.bad:
            return 1.0
        chi_square = self.squares * total.requests / total.bad - total.bad
        return max(1.0, chi_square / (self.looks - 1))
