"""Seeded simulations that keep the figures of docs/analysis.md: whole rollouts in worlds that are known.

Weight 10 %, a look a minute, stable fails 1 % unless said otherwise; thresholds leave room for the seed only.
"""

from dataclasses import dataclass
from statistics import median

import numpy as np
import pytest

from modelramp.domain.counts import BadWindow, Counts, dispersion_index
from modelramp.domain.evidence import EvidenceState, Settings, update
from modelramp.domain.verdict import Outcome, verdict

SETTINGS = Settings()
HISTORY = 3600


@dataclass(frozen=True)
class World:
    """rps: both sides together. cluster: mean size of a burst of errors, which hits one side whole."""

    rps: float
    candidate: float = 0.01
    stable: float = 0.01
    cluster: float = 1.0
    weight: float = 0.1
    looks: int = 60
    seconds: int = 60
    healthy_looks: int = 0


def side(rng, rps, rate, cluster, seconds):
    """(requests, bad) per second."""
    requests = rng.poisson(rps, seconds)
    if cluster == 1.0:
        return requests, rng.binomial(requests, rate)
    bursts = rng.poisson(rps * rate / cluster, seconds)
    bad = bursts + np.where(bursts, rng.negative_binomial(np.maximum(bursts, 1), 1 / cluster), 0)
    return np.maximum(requests, bad), bad


def rollout(world, rng):
    """Look until a Fail or the end. Returns (last outcome, looks taken)."""
    span = world.looks * world.seconds
    _, past = side(rng, world.rps, world.stable, world.cluster, HISTORY)
    requests, bad = side(rng, world.rps * world.weight, world.candidate, world.cluster, span)
    if world.healthy_looks:
        early = world.healthy_looks * world.seconds
        requests[:early], bad[:early] = side(rng, world.rps * world.weight, world.stable, world.cluster, early)
    stable_requests, stable_bad = side(rng, world.rps * (1 - world.weight), world.stable, world.cluster, span)
    per_look = [
        series.reshape(world.looks, world.seconds).sum(axis=1).tolist()
        for series in (requests, bad, stable_requests, stable_bad, stable_bad**2)
    ]
    seconds, total, squares = float(HISTORY), float(past.sum()), float((past**2).sum())
    state, found = EvidenceState(), Outcome.INCONCLUSIVE
    for look, (n_c, e_c, n_s, e_s, e_squares) in enumerate(zip(*per_look, strict=True), 1):
        seconds, total, squares = seconds + world.seconds, total + e_s, squares + e_squares
        dispersion = dispersion_index([BadWindow(seconds, total, squares)])
        state = update(state, Counts(n_c, e_c), Counts(n_s, e_s), dispersion, SETTINGS)
        found = verdict(state, SETTINGS).outcome
        if found is Outcome.FAIL:
            return found, look
    return found, world.looks


def simulate(world, runs):
    rng = np.random.default_rng(20260101)
    return [rollout(world, rng) for _ in range(runs)]


def share(results, outcome):
    return sum(found is outcome for found, _ in results) / len(results)


@pytest.mark.parametrize("rps", [2, 20, 200])
def test_a_healthy_candidate_is_not_aborted(rps):
    results = simulate(World(rps), 60)
    assert share(results, Outcome.FAIL) <= SETTINGS.alpha
    if rps >= 20:
        assert share(results, Outcome.PASS) >= 0.95


@pytest.mark.parametrize("cluster", [3, 10, 30])
def test_clustered_errors_do_not_abort(cluster):
    assert share(simulate(World(20, cluster=cluster), 60), Outcome.FAIL) <= SETTINGS.alpha


def test_no_errors_at_all_pass_in_three_looks():
    results = simulate(World(20, candidate=0.0, stable=0.0, looks=4), 100)
    assert share(results, Outcome.PASS) == 1.0


def test_a_candidate_at_the_limit_does_not_pass():
    """Twice stable's rate, to be told from less than twice: a wrong Pass, looking once at the end."""
    assert share(simulate(World(20, candidate=0.02), 100), Outcome.PASS) <= SETTINGS.alpha


def test_half_as_many_errors_again_pass_where_traffic_can_tell():
    """The limit is twice stable's rate; 1.5 times is certified below it in time."""
    assert share(simulate(World(200, candidate=0.015), 40), Outcome.PASS) >= 0.8


def test_three_times_the_errors_are_found_at_once():
    results = simulate(World(20, candidate=0.03), 100)
    assert share(results, Outcome.FAIL) == 1.0
    assert median(looks for _, looks in results) <= 6


def test_three_times_the_errors_are_found_at_two_requests_a_second():
    assert share(simulate(World(2, candidate=0.03), 60), Outcome.FAIL) >= 0.8


def test_a_regression_after_hours_of_health_is_found():
    world = World(20, candidate=0.03, looks=300, healthy_looks=240)
    late = [looks - 240 for found, looks in simulate(world, 20) if found is Outcome.FAIL and looks > 240]
    assert len(late) >= 18
    assert median(late) <= 25


def test_the_demo_fails_and_passes_in_seconds():
    """50 requests a second, half of them on the candidate, a look every 5 s."""
    broken = World(50, candidate=0.1, stable=0.0, weight=0.5, seconds=5)
    assert median(looks for _, looks in simulate(broken, 50)) == 1
    healthy = World(50, candidate=0.0, stable=0.0, weight=0.5, seconds=5, looks=4)
    assert share(simulate(healthy, 50), Outcome.PASS) == 1.0
