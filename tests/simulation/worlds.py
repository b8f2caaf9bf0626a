"""Worlds that are known, and what each look at them would count: many rollouts at once, one row each.

Good answers come at random. Bad ones come alone, or in bursts that hit one side whole: a pod that hiccups, a client on
one side that has broken. In a `Slow` world bad is "slower than the threshold", as latency.py fixes it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelramp.api.spec import Latency
from modelramp.domain import errors, latency
from modelramp.domain.evidence import Settings, split_alpha
from modelramp.domain.latency import Known

Table = NDArray[np.float64]
"""One row per rollout, one column per look (or second, or client)."""

WINDOW = 3600
"""Seconds for which stable's pods tell how their bad answers came."""
AT_ONCE = 250
"""Rollouts that are drawn together: all their seconds are in memory."""
CLIENTS = 1000
BEFORE = 5000
"""Stable's answers before the rollout, of which latency's threshold is made."""
BOUNDS = (
    0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063,
    0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 30.0,
)  # fmt: skip
"""Of the server's histograms of service time, in seconds."""
MEDIAN = 0.02
PAUSE = 3.0
"""Mean length of a pause, in seconds."""


@dataclass(frozen=True)
class Looks:
    """What each look counts on both sides, and stable's index of dispersion then."""

    candidate: Table
    candidate_bad: Table
    stable: Table
    stable_bad: Table
    dispersion: Table
    settings: Settings


@dataclass(frozen=True)
class World:
    """rps: requests a second, both sides together. stable: its rate of bad answers. times: how many times worse the
    candidate is, from look `healthy` on. cluster: mean size of a burst. dealt: bursts are dealt to both sides request
    by request, as pods do where no client is to stay on its side.
    sticky: each client is on one side for good, and few clients make most of the requests; uneven: how much their own
    error rates differ, as standard deviation over mean.
    seconds, looks: between two looks, and their number. weights: percent for the first minute, and from then on.
    """

    rps: float
    times: float = 1.0
    stable: float = 0.01
    cluster: float = 1.0
    healthy: int = 0
    dealt: bool = False
    sticky: bool = False
    uneven: float = 0.0
    seconds: int = 60
    looks: int = 60
    weights: tuple[int, int] = (10, 10)

    def draw(self, runs: int, rng: np.random.Generator) -> Looks:
        parts = [self._draw(min(AT_ONCE, runs - done), rng) for done in range(0, runs, AT_ONCE)]
        tables = (np.concatenate(of_all) for of_all in zip(*parts, strict=True))
        return Looks(*tables, settings=errors.settings(0.05, 0.01))

    def _draw(self, runs: int, rng: np.random.Generator) -> tuple[Table, ...]:
        look = np.arange(self.looks)
        share = np.where(look * self.seconds < 60, *self.weights)[None, :] / 100
        harm, stable_harm = np.where(look < self.healthy, 1.0, self.times)[None, :], np.ones((runs, 1))
        if self.sticky:
            share, own, stable_harm = self._clients(runs, rng)
            harm = harm * own
        wide, per_look = np.ones((runs, self.looks)), self.rps * self.seconds
        theirs, own = per_look * share * wide, per_look * (1 - share) * wide
        each = self._stable_by_second(rng, own * self.stable * stable_harm)
        if self.dealt:
            lost = rng.binomial(each[:, WINDOW:].astype(int), np.repeat(share * wide, self.seconds, axis=1))
            each[:, WINDOW:] -= lost
            bad = lost.reshape(runs, self.looks, self.seconds).sum(axis=2)
        else:
            bad = bursts(rng, theirs * self.stable * harm, self.cluster)
        requests = rng.poisson(theirs * (1 - self.stable * harm)) + bad
        blocks = each.reshape(runs, -1, self.seconds)
        stable_bad = blocks.sum(axis=2)
        dispersion = self._dispersion(stable_bad, (blocks**2).sum(axis=2))
        stable_bad = stable_bad[:, -self.looks :]
        return requests, bad, rng.poisson(own * (1 - self.stable * stable_harm)) + stable_bad, stable_bad, dispersion

    def _stable_by_second(self, rng: np.random.Generator, during: Table) -> Table:
        """Stable's bad answers in each second of the hour before, and of the rollout: of both sides where dealt."""
        rate = self.rps * self.stable
        before = np.full((len(during), WINDOW), rate)
        seconds = np.full_like(during, rate) if self.dealt else during / self.seconds
        return bursts(rng, np.concatenate([before, seconds.repeat(self.seconds, axis=1)], axis=1), self.cluster)

    def _clients(self, runs: int, rng: np.random.Generator) -> tuple[Table, Table, Table]:
        """The candidate's share of requests, and how bad each side's clients are, as parts of the mean."""
        size = 1 / np.arange(1, CLIENTS + 1)
        size /= size.sum()
        theirs = rng.random((runs, CLIENTS)) < self.weights[0] / 100
        badness = rng.gamma(1 / self.uneven**2, self.uneven**2, (runs, CLIENTS)) if self.uneven else np.ones(CLIENTS)
        share = (theirs * size).sum(axis=1)
        bad, all_bad = (theirs * size * badness).sum(axis=1), (size * badness * np.ones_like(theirs)).sum(axis=1)
        columns = share, bad / np.maximum(share, 1e-12), (all_bad - bad) / (1 - share)
        return tuple(column[:, None] for column in columns)  # type: ignore[return-value]

    def _dispersion(self, bad: Table, squares: Table) -> Table:
        """counts.dispersion_index of the last hour, at each look."""
        past = WINDOW // self.seconds
        total, square = (
            np.cumsum(table, axis=1)[:, past:] - np.cumsum(table, axis=1)[:, : self.looks] for table in (bad, squares)
        )
        mean = total / WINDOW
        return np.maximum(1.0, (square / WINDOW - mean**2) / np.where(mean > 0, mean, np.inf))


def bursts(rng: np.random.Generator, mean: Table, cluster: float) -> Table:
    """Bad answers where `mean` are expected, in bursts of geometric size with mean `cluster`."""
    count = rng.poisson(mean / cluster).astype(float)
    if cluster > 1:
        hit = count > 0
        count[hit] += rng.negative_binomial(count[hit], 1 / cluster)
    return count


@dataclass(frozen=True)
class Slow:
    """Log-normal service times on both sides. slower: factor on the candidate's. sigma: of the log of a time. hop:
    seconds on the candidate's way that are counted too. pauses: an hour and side; they delay all that it answers."""

    rps: float
    slower: float = 1.0
    sigma: float = 0.5
    quantile: float = 0.95
    hop: float = 0.0
    pauses: float = 0.0
    seconds: int = 5
    looks: int = 240
    weights: tuple[int, int] = (10, 10)

    def draw(self, runs: int, rng: np.random.Generator) -> Looks:
        limits = np.array([self.threshold(rng) for _ in range(runs)])[:, None]
        share = np.where(np.arange(self.looks) * self.seconds < 60, *self.weights) / 100
        candidate, candidate_bad = self._side(rng, share, limits - self.hop, self.slower)
        stable, stable_bad = self._side(rng, 1 - share, limits, 1.0)
        settings = Known(self.quantile, 1.5, float(limits[0, 0])).settings(split_alpha(0.05, 2))
        return Looks(candidate, candidate_bad, stable, stable_bad, unevenness(stable, stable_bad), settings)

    def threshold(self, rng: np.random.Generator) -> float:
        """Seconds above which an answer is slow."""
        times = MEDIAN * rng.lognormal(0, self.sigma, BEFORE)
        times[rng.random(BEFORE) < self.pauses * PAUSE / 3600] += PAUSE
        counts = np.searchsorted(np.sort(times), (*BOUNDS, np.inf), side="right")
        histogram = dict(zip((*BOUNDS, float("inf")), counts.tolist(), strict=True))
        found = latency.threshold(latency.per_bucket([histogram]), Latency(quantile=self.quantile))
        assert found is not None
        return found

    def _side(self, rng: np.random.Generator, share: Table, limit: Table, slower: float) -> tuple[Table, Table]:
        answers = rng.poisson(self.rps * self.seconds * share, (len(limit), self.looks))
        slow = above(limit, slower * MEDIAN, self.sigma)
        paused = np.array([self._paused(rng) for _ in limit])
        return answers, rng.binomial(answers, slow + (1 - slow) * paused)

    def _paused(self, rng: np.random.Generator) -> Table:
        """Which part of each look one side spends in pauses."""
        end = self.looks * self.seconds
        starts = rng.uniform(0, end, rng.poisson(self.pauses * end / 3600))
        edges = np.arange(0, end + 1, self.seconds)
        within = [np.diff(np.clip(edges, a, a + rng.exponential(PAUSE))) for a in starts]
        return np.minimum(1.0, np.sum(within, axis=0) / self.seconds) if within else np.zeros(self.looks)


def above(limit: Table, median: float, sigma: float) -> Table:
    """Which part of log-normal times is above `limit`."""
    distance = np.log(np.maximum(limit, 1e-9) / median) / (sigma * np.sqrt(2))
    return np.vectorize(math.erfc)(distance) / 2


def unevenness(requests: Table, bad: Table) -> Table:
    """counts.Unevenness of the looks so far, at each look."""
    seen = np.cumsum(requests > 0, axis=1)
    squares = np.cumsum(bad**2 / np.maximum(requests, 1), axis=1)
    total, total_bad = np.cumsum(requests, axis=1), np.cumsum(bad, axis=1)
    chi_square = squares * total / np.maximum(total_bad, 1) - total_bad
    index = chi_square / np.maximum(seen - 1, 1)
    return np.where((seen < 2) | (total_bad == 0), 1.0, np.maximum(1.0, index))
