"""Rules that end rollouts, over many rollouts at once: ours, and two that are in use elsewhere.

`ours` does to arrays what evidence.update and verdict do to one rollout; a test compares them look by look.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelramp.domain.evidence import BELOW_RATE, BELOW_STABLE, COMPARABLE, WORSE, Settings
from tests.simulation.worlds import Looks, Table

STRIKES = 5
NORMAL_95 = 1.6449


@dataclass(frozen=True)
class Ended:
    """failed: the look of the first Fail, from 1; 0 if there was none. passing: whether each look says Pass, had there
    been no Fail."""

    failed: NDArray[np.int64]
    passing: NDArray[np.bool_]

    @classmethod
    def of(cls, failing: NDArray[np.bool_], passing: NDArray[np.bool_]) -> "Ended":
        return cls(np.where(failing.any(axis=1), failing.argmax(axis=1) + 1, 0), passing)

    def aborted(self, after: int = 0) -> float:
        """Which part ends in a Fail, after that look."""
        return float((self.failed > after).mean())

    def early(self, look: int) -> float:
        """Which part ends in a Fail until that look."""
        return float(((self.failed > 0) & (self.failed <= look)).mean())

    def median_look(self, after: int = 0) -> float:
        """Of the Fails after that look, counted from it; infinite where most never come, or none gets there."""
        there = self.failed[(self.failed == 0) | (self.failed > after)]
        return float(np.median(np.where(there > 0, there - after, np.inf))) if len(there) else np.inf

    def promoted(self, hold: int) -> float:
        """Which part passes at some look from the `hold`th on, before any Fail."""
        later = self.passing[:, hold - 1 :]
        first = np.where(later.any(axis=1), later.argmax(axis=1) + hold, 0)
        return float(((first > 0) & ((self.failed == 0) | (first < self.failed))).mean())


def z_test(looks: Looks) -> Ended:
    """Two proportions compared at every look, as if it were the only one; 5 %, one-sided."""
    n_c, e_c, n_s, e_s = (
        np.cumsum(t, axis=1) for t in (looks.candidate, looks.candidate_bad, looks.stable, looks.stable_bad)
    )
    pooled = (e_c + e_s) / np.maximum(n_c + n_s, 1)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n_c, 1) + 1 / np.maximum(n_s, 1)))
    failing = e_c / np.maximum(n_c, 1) - e_s / np.maximum(n_s, 1) > NORMAL_95 * np.where(spread > 0, spread, np.inf)
    return Ended.of(failing, ~failing)


def strikes(looks: Looks, limit: float = 0.02) -> Ended:
    """A fixed limit on the rate of each minute, and STRIKES minutes above it, whenever."""
    over = looks.candidate_bad > limit * looks.candidate
    failing = np.cumsum(over, axis=1) >= STRIKES
    return Ended.of(failing, ~failing)


def ours(looks: Looks) -> Ended:
    rule = Ours(looks.candidate.shape[0], looks.settings)
    columns = zip(looks.candidate.T, looks.candidate_bad.T, looks.stable.T, looks.stable_bad.T, strict=True)
    found = [rule.look(*sides, spread) for sides, spread in zip(columns, looks.dispersion.T, strict=True)]
    failing, passing = (np.stack(each, axis=1) for each in zip(*found, strict=True))
    return Ended.of(failing, passing)


class Ours:
    def __init__(self, rows: int, settings: Settings) -> None:
        self.settings = settings
        self.log_m = np.full((rows, len(WORSE)), -np.inf)
        self.since = np.zeros((4, rows, len(WORSE)))
        self.telling = np.zeros(rows)
        self.total = np.zeros((4, rows))
        self.effective = np.zeros((2, rows))
        self.below_stable = np.zeros((rows, len(BELOW_STABLE)))

    def look(self, n_c: Table, e_c: Table, n_s: Table, e_s: Table, dispersion: Table) -> tuple[Table, Table]:
        """Whether the look says Fail, and whether it says Pass if not Fail; one of each per rollout."""
        self._suspect(n_c, e_c, n_s, e_s, dispersion)
        self.total += (n_c, e_c, n_s, e_s)
        self.effective += np.array([n_c, e_c]) / dispersion
        for i, (factor, _) in enumerate(BELOW_STABLE):
            margin = self.settings.margin
            self.below_stable[:, i] += ratio(n_c, e_c, n_s, e_s, margin * factor, margin) / dispersion
        return self._fails(), self._passes()

    def _suspect(self, n_c: Table, e_c: Table, n_s: Table, e_s: Table, dispersion: Table) -> None:
        alone = n_s < COMPARABLE * n_c
        telling = (n_c > 0) & (alone | (e_c + e_s > 0))
        rows = np.flatnonzero(telling)
        n_c, e_c, n_s, e_s, dispersion, alone = (t[rows] for t in (n_c, e_c, n_s, e_s, dispersion, alone))
        past = self.total[3, rows] / np.maximum(self.total[2, rows], 1)
        limit = np.minimum(0.5, np.maximum(self.settings.objective, self.settings.margin * past))
        gains = np.stack(
            [
                np.where(
                    alone,
                    rate(n_c, e_c, np.minimum(rho * limit, (1 + limit) / 2), limit),
                    ratio(n_c, e_c, n_s, e_s, rho, 1.0),
                )
                for rho, _ in WORSE
            ],
            axis=1,
        )
        gains = np.minimum(gains / dispersion[:, None], self.settings.most_per_look)
        look = self.telling[rows]
        started = np.logaddexp(self.log_m[rows], -np.log((look + 1) * (look + 2))[:, None])
        kept = np.exp(self.log_m[rows] - started)
        self.since[:, rows] = self.since[:, rows] * kept + np.stack([n_c, e_c, n_s, e_s])[:, :, None]
        self.log_m[rows] = started + gains
        self.telling[rows] += 1

    def _fails(self) -> Table:
        weighted = self.log_m + np.log([weight for _, weight in WORSE])
        log_e = np.logaddexp(np.logaddexp.reduce(weighted, axis=1), -np.log(self.telling + 1))
        likeliest = weighted.argmax(axis=1)
        n_c, e_c, n_s, e_s = (t[np.arange(len(likeliest)), likeliest] for t in self.since)
        stable = np.where(
            n_s >= COMPARABLE * n_c, e_s / np.maximum(n_s, 1e-9), self.total[3] / np.maximum(self.total[2], 1)
        )
        worse = log_e >= self.settings.threshold
        return worse & (e_c > np.maximum(self.settings.objective, self.settings.margin * stable) * n_c)

    def _passes(self) -> Table:
        null = self.settings.objective
        n, e = self.effective
        terms = [np.log(weight) + rate(n, e, factor * null, null) for factor, weight in BELOW_RATE]
        terms += [np.log(weight) + self.below_stable[:, i] for i, (_, weight) in enumerate(BELOW_STABLE)]
        return np.logaddexp.reduce(np.array(terms), axis=0) >= self.settings.threshold


def ratio(n_c: Table, e_c: Table, n_s: Table, e_s: Table, rho: float, null: float) -> Table:
    """eprocess.ratio_increment."""
    spread = (rho * n_c + n_s) / np.where(n_c + n_s > 0, null * n_c + n_s, 1)
    gain = e_c * np.log(rho / null) - (e_c + e_s) * np.log(np.where(spread > 0, spread, 1))
    return np.where((n_c > 0) & (n_s > 0), gain, 0.0)


def rate(requests: Table, bad: Table, rate: Table | float, null: Table | float) -> Table:
    """eprocess.rate_increment."""
    return bad * np.log(rate / null) + (requests - bad) * (np.log1p(-rate) - np.log1p(-null))
