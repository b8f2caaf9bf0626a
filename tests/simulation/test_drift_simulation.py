"""Seeded simulations that keep the figures of docs/analysis.md, "Drift": whole rollouts in worlds that are known.

Answers fall into ten classes; weight 10 %, a look every 5 s, alpha 5 %, a distance of 0.1 is let pass. What comes in
clusters are answers with one class in a row, all on one side: a client that is kept on its side.

DRIFT_RUNS is how many rollouts each world sees; `python -m tests.simulation.test_drift_simulation` prints the table.
"""

import os
import sys
from dataclasses import dataclass
from itertools import product
from statistics import median

import numpy as np
import pytest

from modelramp.api.status import Verdict
from modelramp.domain.distance import Comparison
from modelramp.domain.drift import judge

RUNS = int(os.environ.get("DRIFT_RUNS", "40"))
ALPHA, LIMIT, CLASSES, SECONDS = 0.05, 0.1, 10, 5.0


@dataclass(frozen=True)
class World:
    """rps: both sides together. distance: true total variation distance of the candidate's classes. cluster: mean
    answers with one cause. even: classes are equally likely; else class 0 has most. swing: the traffic's mix changes
    within 10 minutes and back, for both sides."""

    rps: float
    distance: float = 0.0
    cluster: float = 1.0
    even: bool = True
    swing: bool = False
    weight: float = 0.1
    looks: int = 240


def shares(world):
    stable = np.full(CLASSES, 1 / CLASSES) if world.even else np.array([0.82] + [0.02] * (CLASSES - 1))
    candidate = stable.copy()
    candidate[0] += world.distance if world.even else -world.distance
    candidate[1:] += (-1 if world.even else 1) * world.distance / (CLASSES - 1)
    return candidate, stable


def answers(rng, world, rate, share):
    """Classes counted in one look of one side."""
    clusters = rng.poisson(rate * SECONDS / world.cluster)
    sizes = rng.geometric(1 / world.cluster, clusters)
    counts = np.bincount(rng.choice(CLASSES, clusters, p=share), sizes, minlength=CLASSES).astype(int)
    return {str(name): int(count) for name, count in enumerate(counts) if count}


def rollout(world, rng, limit=LIMIT):
    """Looks until a verdict. Returns (verdict, looks)."""
    comparison = Comparison()
    candidate, stable = shares(world)
    for look in range(world.looks):
        mix = np.ones(CLASSES)
        if world.swing:
            mix[: CLASSES // 2] += 0.8 * np.sin(2 * np.pi * look * SECONDS / 600)
        theirs, ours = candidate * mix / (candidate @ mix), stable * mix / (stable @ mix)
        comparison = comparison.add(
            answers(rng, world, world.rps * world.weight, theirs),
            answers(rng, world, world.rps * (1 - world.weight), ours),
        )
        verdict = judge(comparison, limit, ALPHA)
        if verdict is not Verdict.INCONCLUSIVE:
            return verdict, look + 1
    return Verdict.INCONCLUSIVE, world.looks


def simulate(world, runs=RUNS, seed=20260101, limit=LIMIT):
    rng = np.random.default_rng(seed)
    results = [rollout(world, rng, limit) for _ in range(runs)]
    share = {verdict: sum(found is verdict for found, _ in results) / runs for verdict in Verdict}
    when = [looks for found, looks in results if found is not Verdict.INCONCLUSIVE]
    return share, median(when) if when else None


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("cluster", [1, 10])
def test_at_the_limit_neither_test_is_wrong(cluster, even):
    share, _ = simulate(World(20, distance=LIMIT, cluster=cluster, even=even))
    assert share[Verdict.FAIL] <= ALPHA
    assert share[Verdict.PASS] <= ALPHA


@pytest.mark.parametrize("cluster", [3, 10, 30])
@pytest.mark.parametrize("rps", [20, 200])
def test_clusters_on_one_side_are_not_taken_for_drift(rps, cluster):
    share, _ = simulate(World(rps, cluster=cluster))
    assert share[Verdict.FAIL] <= ALPHA


def test_the_same_predictions_are_certified_though_the_mix_of_traffic_swings():
    for swing in (False, True):
        share, looks = simulate(World(20, swing=swing))
        assert share[Verdict.PASS] >= 0.95
        assert looks <= 130


@pytest.mark.parametrize(
    ("rps", "distance", "most"), [(20, 0.2, 90), (20, 0.3, 20), (20, 0.4, 10), (2, 0.4, 90), (200, 0.15, 40)]
)
def test_drift_is_found(rps, distance, most):
    share, looks = simulate(World(rps, distance))
    assert share[Verdict.FAIL] >= 0.95
    assert looks <= most


def test_drift_is_found_among_clusters():
    share, looks = simulate(World(20, 0.4, cluster=10))
    assert share[Verdict.FAIL] >= 0.95
    assert looks <= 180


def table():
    worlds = [World(rps, distance) for distance, rps in product((0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), (2, 20, 200))]
    worlds += [World(20, distance, even=False) for distance in (0, 0.1, 0.2)]
    worlds += [World(20, distance, swing=True) for distance in (0, 0.1, 0.2)]
    worlds += [World(20, distance, cluster) for distance, cluster in product((0, 0.1, 0.4), (3, 10, 30))]
    for world in worlds:
        share, looks = simulate(world)
        found = ", ".join(f"{verdict.value} {100 * part:.1f} %" for verdict, part in share.items() if part)
        print(f"{world}: {found}; median look {looks}", flush=True)


if __name__ == "__main__":
    sys.exit(table())
