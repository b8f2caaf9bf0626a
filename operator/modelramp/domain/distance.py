"""How far two sides' predictions are apart, and what is certain of it at every look: arithmetic, as in eprocess.py.

The distance is the total variation: the largest difference, over sets of classes, between the shares of the answers
that each side gives to the set. Of look t, with n_c and n_s answers, let m = n_c n_s / (n_c + n_s), and per class k
S_k = sum over looks of m (candidate's share - stable's share), M = sum of m. For a set A of classes, S(A) - M d has
mean 0 or less if the distance is d at most, and is sub-Gaussian with variance M / 4 (Hoeffding), so
exp(x (S(A) - M d) - x^2 M / 8) is an e-process for every x > 0: looks may differ in traffic and mix.

Above: the mean over all sets A at once is a product, prod_k cosh(x S_k / 2), since the S_k sum to 0.
Below: what is d or farther apart is so on some set; the set that says so most has S(A) = the sum of the positive S_k.

Sources: Howard, Ramdas, McAuliffe and Sekhon, arXiv 1810.08240 (sub-Gaussian e-processes, mixtures); docs/analysis.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from modelramp.domain.eprocess import log_sum_exp

BEYOND = (0.03, 0.06, 0.12, 0.25, 0.5)
"""How far the distance may be beyond the limit (alternatives, equally likely); each is best met by x = 4 times it."""

Classes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Side:
    """One side's answers by class, and how unevenly they fall on the looks.

    squares: per class, the sum over looks of count^2 / answers.
    """

    looks: int = 0
    counts: Classes = field(default_factory=dict)
    squares: Mapping[str, float] = field(default_factory=dict)

    @property
    def answers(self) -> int:
        return sum(self.counts.values())

    def share(self, name: str) -> float:
        return self.counts.get(name, 0) / self.answers if self.answers else 0.0

    def add(self, fresh: Classes) -> Side:
        answers = sum(fresh.values())
        if not answers:
            return self
        counts = {name: self.counts.get(name, 0) + fresh.get(name, 0) for name in {**self.counts, **fresh}}
        squares = {name: self.squares.get(name, 0.0) + fresh.get(name, 0) ** 2 / answers for name in counts}
        return Side(self.looks + 1, counts, squares)

    @property
    def index(self) -> float:
        """Index of dispersion: Pearson's chi-square per degree of freedom of the table of looks by classes, never
        below 1. About how many answers have one cause; 1 where each has its own."""
        seen = {name: count for name, count in self.counts.items() if count}
        freedom = (self.looks - 1) * (len(seen) - 1)
        if freedom < 1:
            return 1.0
        answers = self.answers
        return max(1.0, math.fsum(self.squares[name] * answers / n - n for name, n in seen.items()) / freedom)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides since the comparison began. `pairs` is M, `excess` are the S_k, of `looks` with both sides."""

    candidate: Side = Side()
    stable: Side = Side()
    looks: int = 0
    pairs: float = 0.0
    excess: Mapping[str, float] = field(default_factory=dict)

    def add(self, candidate: Classes, stable: Classes) -> Comparison:
        """One more look; one that a side is missing from tells about that side's unevenness only."""
        both = replace(self, candidate=self.candidate.add(candidate), stable=self.stable.add(stable))
        theirs, ours = sum(candidate.values()), sum(stable.values())
        if not theirs or not ours:
            return both
        pairs = theirs * ours / (theirs + ours)
        excess = {
            name: self.excess.get(name, 0.0) + pairs * (candidate.get(name, 0) / theirs - stable.get(name, 0) / ours)
            for name in {**self.excess, **candidate, **stable}
        }
        return replace(both, looks=self.looks + 1, pairs=self.pairs + pairs, excess=excess)

    @property
    def distance(self) -> float:
        """Estimated; too large rather than too small while there are few answers."""
        return _positive(self.excess.values()) / self.pairs if self.pairs else 0.0

    @property
    def dispersion(self) -> float:
        """Answers that share a cause are one piece of evidence, whichever side they fall on."""
        return max(self.candidate.index, self.stable.index)

    def log_above(self, limit: float) -> float:
        """log E against "the distance is `limit` at most"."""
        dispersion = self.dispersion
        pairs = self.pairs / dispersion
        terms = []
        for x in (4 * beyond for beyond in BEYOND):
            halves = (abs(x * each / dispersion / 2) for each in self.excess.values())
            agreement = math.fsum(half + math.log1p(math.exp(-2 * half)) - math.log(2) for half in halves)
            terms.append(agreement - x * limit * pairs - x * x * pairs / 8)
        return log_sum_exp(terms) - math.log(len(terms))

    def log_below(self, limit: float, more: float = 0.0) -> float:
        """log E against "the distance is `limit` or more"; with `more` times as many answers as these in addition."""
        pairs = (1 + more) * self.pairs / self.dispersion
        room = limit - self.distance
        terms = [pairs * (x * room - x * x / 8) for x in (4 * beyond for beyond in BEYOND)]
        return log_sum_exp(terms) - math.log(len(terms))


def _positive(numbers: Iterable[float]) -> float:
    return math.fsum(max(0.0, each) for each in numbers)
