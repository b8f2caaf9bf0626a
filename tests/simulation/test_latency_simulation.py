"""Seeded simulations that keep the figures of docs/analysis.md, "Latency": whole rollouts in worlds that are known.

Both sides' service times are log-normal, in histograms with the server's bounds; weight 10 %; a look every 5 s, as
shipped. Pauses delay everything that one side answers meanwhile, and hit each side on its own.
"""

from dataclasses import replace

import numpy as np
import pytest

from modelramp.domain.evidence import split_alpha
from tests.simulation.rules import Ended, ours
from tests.simulation.worlds import MEDIAN, Slow

ALPHA = split_alpha(0.05, 2)
Z95 = 1.6449


def simulate(world: Slow, runs: int) -> Ended:
    return ours(world.draw(runs, np.random.default_rng(20260101)))


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("rps", [20, 200])
@pytest.mark.parametrize("quantile", [0.95, 0.99])
def test_as_fast_passes_and_is_not_aborted(rps: float, quantile: float, sigma: float) -> None:
    world = Slow(rps, quantile=quantile, sigma=sigma, looks=180)
    found = simulate(world, 100)
    assert found.aborted() == 0
    assert found.promoted(world.looks) >= 0.95
    first_pass = np.median(found.passing.argmax(axis=1) + 1)
    assert first_pass * world.seconds * rps * 0.1 <= (300 if quantile == 0.95 else 1000)


@pytest.mark.parametrize("rps", [20, 200])
def test_three_times_slower_is_found_within_a_minute(rps: float) -> None:
    found = simulate(Slow(rps, slower=3), 100)
    assert found.aborted() == 1.0
    assert found.median_look() <= 13
    assert found.promoted(1) == 0


@pytest.mark.parametrize("weight", [10, 50])
@pytest.mark.parametrize("pauses", [4, 12])
def test_pauses_of_either_side_do_not_abort(pauses: float, weight: int) -> None:
    found = simulate(Slow(20, pauses=pauses, weights=(weight, weight), looks=360), 250)
    assert found.aborted() <= 0.05


def test_no_look_decides_alone() -> None:
    """A candidate all of whose answers are slow is not taken back at once, however many they are."""
    assert simulate(Slow(200, slower=100), 50).failed.min() > 4


def test_at_the_limit_does_not_pass() -> None:
    """Its quantile is the threshold itself: a wrong Pass, at any look."""
    world = Slow(20)
    limit = world.threshold(np.random.default_rng(20260101))
    found = simulate(replace(world, slower=limit / (MEDIAN * np.exp(Z95 * world.sigma))), 500)
    assert found.passing.any(axis=1).mean() <= ALPHA


def test_a_hop_would_abort_where_it_were_counted() -> None:
    """Why service time is judged, and not what the answers take on their way too: the hop weighs on one side only."""
    assert simulate(Slow(20), 100).aborted() == 0
    assert simulate(Slow(20, hop=0.1), 100).aborted() == 1.0
