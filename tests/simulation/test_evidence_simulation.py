"""Seeded simulations that hold the shipped rule to its bars: whole rollouts in worlds that are known.

Weight 10 %, a look a minute, stable fails 1 % unless said otherwise. `python -m tests.simulation.study` measures all
worlds, with the rules that others use, for docs/analysis.md.
"""

import numpy as np
import pytest

from modelramp.domain.counts import Counts
from modelramp.domain.evidence import EvidenceState, Settings, update
from modelramp.domain.verdict import Outcome, verdict
from tests.simulation.rules import Ended, ours, strikes, z_test
from tests.simulation.worlds import Looks, Slow, World

ALPHA = Settings().alpha
AS_SHIPPED = {"weights": (10, 50), "seconds": 5, "looks": 720}
STEPS_DONE = 24
"""Looks until the shipped steps are done, if all goes well."""


def simulate(world: World | Slow, runs: int) -> Ended:
    return ours(world.draw(runs, np.random.default_rng(20260101)))


@pytest.mark.parametrize(
    "world",
    [
        World(2, times=3),
        World(20, cluster=10),
        World(20, sticky=True, uneven=2),
        World(20, times=3, healthy=30),
        World(20, times=5, stable=0.0005, dealt=True, cluster=3),
        World(0.5, weights=(10, 50), seconds=5, looks=120),  # looks with nobody to compare with
        Slow(20, slower=2, looks=60),
        Slow(20, pauses=12, looks=120),
    ],
    ids=str,
)
def test_arrays_of_rollouts_are_judged_as_each_of_them(world: World | Slow) -> None:
    looks = world.draw(4, np.random.default_rng(1))
    found = ours(looks)
    for row in range(4):
        outcomes = one_by_one(looks, row)
        fails = [look for look, outcome in enumerate(outcomes, 1) if outcome is Outcome.FAIL]
        assert found.failed[row] == (fails[0] if fails else 0)
        for outcome, passing in zip(outcomes, found.passing[row], strict=True):
            assert outcome is Outcome.FAIL or (outcome is Outcome.PASS) == passing


def one_by_one(looks: Looks, row: int) -> list[Outcome]:
    state, found = EvidenceState(), []
    tables = looks.candidate, looks.candidate_bad, looks.stable, looks.stable_bad, looks.dispersion
    for n_c, e_c, n_s, e_s, dispersion in zip(*(table[row].tolist() for table in tables), strict=True):
        candidate, stable = Counts(int(n_c), int(e_c)), Counts(int(n_s), int(e_s))
        state = update(state, candidate, stable, dispersion, looks.settings)
        found.append(verdict(state, looks.settings).outcome)
    return found


@pytest.mark.parametrize("cluster", [1, 3, 10, 30])
@pytest.mark.parametrize("rps", [0.5, 2, 20, 200])
def test_a_healthy_candidate_is_not_aborted(rps: float, cluster: float) -> None:
    assert simulate(World(rps, cluster=cluster), 2000).aborted() <= ALPHA


@pytest.mark.parametrize(
    "world",
    [
        World(20, sticky=True),
        World(20, sticky=True, cluster=10),
        World(20, sticky=True, uneven=0.5),
        World(20, dealt=True, cluster=30),
    ],
    ids=str,
)
def test_nor_is_it_where_a_few_clients_make_most_of_the_traffic(world: World) -> None:
    assert simulate(world, 1000).aborted() <= ALPHA


@pytest.mark.parametrize("stable", [0.0, 0.0025, 0.005, 0.0075, 0.01])
def test_a_healthy_candidate_is_promoted_by_the_shipped_steps(stable: float) -> None:
    assert simulate(World(20, stable=stable, **AS_SHIPPED), 500).promoted(STEPS_DONE) >= 0.95


def test_no_errors_at_all_pass_in_four_looks() -> None:
    assert simulate(World(20, stable=0.0, looks=4), 500).promoted(4) == 1.0


def test_a_candidate_at_the_limit_does_not_pass() -> None:
    """Twice stable's rate, to be told from less than twice: a wrong Pass, at any look."""
    assert simulate(World(20, times=2), 1000).passing.any(axis=1).mean() <= ALPHA


def test_half_as_many_errors_again_pass_where_traffic_can_tell() -> None:
    """The limit is twice stable's rate; 1.5 times is certified below it in time."""
    assert simulate(World(200, times=1.5), 500).promoted(60) >= 0.8


def test_three_times_the_errors_are_found_at_once() -> None:
    found = simulate(World(20, times=3), 1000)
    assert found.aborted() == 1.0
    assert found.median_look() <= 6


def test_three_times_the_errors_are_found_at_two_requests_a_second() -> None:
    assert simulate(World(2, times=3), 6000).aborted() >= 0.9


def test_a_regression_after_hours_of_health_is_found() -> None:
    found = simulate(World(20, times=3, healthy=240, looks=300), 500)
    assert found.aborted(240) >= 0.98
    assert found.median_look(240) <= 25


def test_the_demo_fails_and_passes_in_seconds() -> None:
    """50 requests a second, half of them on the candidate, a look every 5 s."""
    half = {"weights": (50, 50), "seconds": 5}
    assert simulate(World(50, times=1000, stable=0.0001, looks=12, **half), 500).median_look() == 2
    assert simulate(World(50, stable=0.0, looks=4, **half), 500).promoted(4) == 1.0


def test_the_rules_of_others_abort_the_healthy() -> None:
    """Why it takes more: a test at each look that takes itself for the only one, and counting bad minutes."""
    looks = World(20).draw(1000, np.random.default_rng(20260101))
    assert z_test(looks).aborted() > 5 * ALPHA
    assert strikes(looks).aborted() > 5 * ALPHA
