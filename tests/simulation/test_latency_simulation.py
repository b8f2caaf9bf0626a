"""Seeded simulations that keep the figures of docs/analysis.md, "Latency": whole rollouts in worlds that are known.

Both sides' service times are log-normal, in histograms with the server's bounds; weight 10 %; a look every 5 s, as
shipped. Pauses delay everything that one side answers meanwhile, and hit each side on its own.
"""

from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pytest

from modelramp.api.spec import Latency
from modelramp.domain import latency
from modelramp.domain.counts import Counts, Unevenness
from modelramp.domain.evidence import EvidenceState, split_alpha, update
from modelramp.domain.verdict import Outcome, verdict

BOUNDS = (
    0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063,
    0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 30.0,
)  # fmt: skip
ALPHA = split_alpha(0.05, 2)
MEDIAN = 0.02
PAUSE = 3.0
"""Mean length of a pause, in seconds."""


@dataclass(frozen=True)
class World:
    """rps: both sides together. slower: factor on the candidate's time. sigma: of the log of a service time.
    hop: seconds added to what the candidate's answers take, where the clock is held at the wrong place.
    pauses: per hour and side."""

    rps: float
    slower: float = 1.0
    sigma: float = 0.5
    quantile: float = 0.95
    hop: float = 0.0
    pauses: float = 0.0
    weight: float = 0.1
    looks: int = 240
    seconds: float = 5.0


def paused(rng, world):
    """Which part of each look a side spends in a pause."""
    share = np.zeros(world.looks)
    if not world.pauses:
        return share
    end = world.looks * world.seconds
    for start in rng.uniform(0, end, rng.poisson(world.pauses * end / 3600)):
        until = start + rng.exponential(PAUSE)
        first, last = int(start // world.seconds), int(min(until, end - 1e-9) // world.seconds)
        for look in range(first, last + 1):
            begin, stop = look * world.seconds, (look + 1) * world.seconds
            share[look] = min(1.0, share[look] + (min(until, stop) - max(start, begin)) / world.seconds)
    return share


def side(rng, world, rps, slower, threshold):
    """(answers, slow ones) per look."""
    answers = rng.poisson(rps * world.seconds, world.looks)
    delayed = paused(rng, world)
    slow = []
    for n, part in zip(answers, delayed, strict=True):
        times = slower * MEDIAN * rng.lognormal(0, world.sigma, n)
        slow.append(int(np.count_nonzero((times > threshold) | (rng.uniform(size=n) < part))))
    return answers.tolist(), slow


def threshold(rng, world):
    """Fixed on stable's answers before the rollout, pauses and all."""
    times = MEDIAN * rng.lognormal(0, world.sigma, 5000)
    times[rng.uniform(size=5000) < world.pauses * PAUSE / 3600] += PAUSE
    cumulative = {bound: int(np.count_nonzero(times <= bound)) for bound in BOUNDS} | {float("inf"): len(times)}
    return latency.threshold(latency.per_bucket([cumulative]), Latency(quantile=world.quantile))


def rollout(world, rng, keep_on=False):
    """Look until a verdict (or a Fail). Returns (outcome, looks, the candidate's answers)."""
    limit = threshold(rng, world)
    known = latency.Known(world.quantile, 1.5, limit)
    rules = known.settings(ALPHA)
    n_c, e_c = side(rng, world, world.rps * world.weight, world.slower, limit - world.hop)
    n_s, e_s = side(rng, world, world.rps * (1 - world.weight), 1.0, limit)
    state, uneven, found = EvidenceState(), Unevenness(), Outcome.INCONCLUSIVE
    first_pass = 0
    for look in range(world.looks):
        candidate, stable = Counts(n_c[look], e_c[look]), Counts(n_s[look], e_s[look])
        uneven = uneven.add(stable)
        state = update(state, candidate, stable, uneven.index(state.stable + stable), rules)
        found = verdict(state, rules).outcome
        if found is Outcome.PASS and not first_pass:
            first_pass = state.candidate.requests
        if found is Outcome.FAIL:
            return found, look + 1, first_pass
    return found, world.looks, first_pass


def simulate(world, runs, seed=20260101):
    rng = np.random.default_rng(seed)
    return [rollout(world, rng) for _ in range(runs)]


def share(results, outcome):
    return sum(found is outcome for found, *_ in results) / len(results)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("rps", [20, 200])
@pytest.mark.parametrize("quantile", [0.95, 0.99])
def test_as_fast_passes_and_is_never_aborted(rps, quantile, sigma):
    results = simulate(World(rps, quantile=quantile, sigma=sigma, looks=180), 30)
    assert share(results, Outcome.FAIL) == 0
    assert share(results, Outcome.PASS) >= 0.95
    assert median(passed for _, _, passed in results) <= (300 if quantile == 0.95 else 1000)


@pytest.mark.parametrize("rps", [20, 200])
def test_three_times_slower_is_found_within_a_minute(rps):
    results = simulate(World(rps, slower=3), 40)
    assert share(results, Outcome.FAIL) == 1.0
    assert median(looks for _, looks, _ in results) <= 13
    assert not any(passed for *_, passed in results)


@pytest.mark.parametrize("weight", [0.1, 0.5])
@pytest.mark.parametrize("pauses", [4, 12])
def test_pauses_of_either_side_do_not_abort(pauses, weight):
    results = simulate(World(20, pauses=pauses, weight=weight, looks=360), 60)
    assert share(results, Outcome.FAIL) <= 0.05


def test_no_look_decides_alone():
    """A candidate all of whose answers are slow is not taken back at once, however many they are."""
    results = simulate(World(200, slower=100), 20)
    assert min(looks for _, looks, _ in results) > 4


def test_at_the_limit_does_not_pass():
    """Its quantile is the threshold itself: a wrong Pass, at any look."""
    rng = np.random.default_rng(20260101)
    at_limit = []
    for _ in range(100):
        world = World(20)
        z95 = 1.6449
        slower = threshold(rng, world) / (MEDIAN * np.exp(z95 * world.sigma))
        at_limit.append(rollout(replace(world, slower=float(slower)), rng))
    assert sum(1 for *_, passed in at_limit if passed) / 100 <= 2 * ALPHA


def test_a_hop_would_abort_where_it_were_counted():
    """Why service time is judged, and not what the answers take on their way too: the hop weighs on one side only."""
    assert share(simulate(World(20), 40), Outcome.FAIL) == 0
    assert share(simulate(World(20, hop=0.1), 40), Outcome.FAIL) == 1.0
