"""The test of a bound on disagreement, over many shadows: how often it is wrong, and how soon it is right.

docs/analysis.md has the figures, with more runs: `RUNS=200 pytest -s` prints them.
"""

import os
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from modelramp.api.spec import Spec
from modelramp.api.status import CandidateStatus, Cause, EvidenceStatus, StableStatus, Status, TrafficStatus, Verdict
from modelramp.domain.disagreement import look
from modelramp.domain.snapshot import Snapshot
from modelramp.domain.turn import Turn
from modelramp.domain.world import Pod, PodMetrics, SplitCounts, World
from modelramp.routers.relay import ROUTER

RUNS = int(os.environ.get("RUNS", 40))
LOOKS, INTERVAL = 120, timedelta(seconds=5)
ALPHA, BOUND, SALT = 0.025, 0.05, "s"
START = datetime(2026, 1, 1, tzinfo=UTC)


def snapshot() -> Snapshot:
    rollout = {"steps": [{"shadow": 20}, {"weight": 10}], "shadow": {"maxDisagreement": BOUND}}
    status = Status(
        stable=StableStatus(revision="a" * 8, version=1, since=START),
        candidate=CandidateStatus(revision="b" * 8, version=2, cause=Cause.ALIAS, started_at=START, salt=SALT),
        traffic=TrafficStatus(generation=1, shadow=20),
    )
    spec = Spec.model_validate({"model": {"name": "digits", "alias": "prod"}, "rollout": rollout})
    return Snapshot(START, "uid", 1, spec, status, World(), None, None, router=ROUTER)


def one(rng: np.random.Generator, rate: float, per_look: float, burst: float, hold: int) -> tuple[Verdict, int]:
    """The first Fail, or Pass after a hold of so many looks, and when; disagreements come `burst` at a time, about."""
    before: EvidenceStatus | None = None
    seen, agree, disagree = snapshot(), 0, 0
    for index in range(1, LOOKS + 1):
        compared = int(rng.poisson(per_look))
        bursts = rng.binomial(compared, min(1.0, rate / burst))
        other = min(compared, int(rng.geometric(1 / burst, bursts).sum()))
        agree, disagree = agree + compared - other, disagree + other
        counts = SplitCounts(shadow_ok=agree + disagree, agree=agree, disagree=disagree)
        pod = Pod("pod", "a" * 8, ready=True, metrics=PodMetrics(splits={SALT: counts}))
        turn = Turn(replace(seen, now=START + index * INTERVAL, world=World(pods=(pod,))))
        (before,) = look(turn, before, ROUTER.tally(turn), ALPHA)
        if before.verdict is Verdict.FAIL or (before.verdict is Verdict.PASS and index >= hold):
            return before.verdict, index
    return Verdict.INCONCLUSIVE, LOOKS


def many(rate: float, per_look: float, burst: float = 1.0, hold: int = 0) -> tuple[Counter[Verdict], float]:
    """Verdicts, and the median look of the commonest."""
    rng = np.random.default_rng(7)
    found = [one(rng, rate, per_look, burst, hold) for _ in range(RUNS)]
    verdicts = Counter(verdict for verdict, _ in found)
    commonest = verdicts.most_common(1)[0][0]
    median = float(np.median([looks for verdict, looks in found if verdict is commonest]))
    print(f"\nrate {rate}, {per_look} a look, bursts of {burst}, hold {hold}: {dict(verdicts)}, median look {median}")
    return verdicts, median


@pytest.mark.parametrize("per_look", [5, 50])
def test_at_the_bound_it_is_seldom_wrong(per_look: float) -> None:
    verdicts, _ = many(BOUND, per_look)
    assert verdicts[Verdict.FAIL] + verdicts[Verdict.PASS] <= 0.05 * RUNS + 1


def test_three_times_the_bound_is_found() -> None:
    verdicts, median = many(3 * BOUND, 50)
    assert verdicts[Verdict.FAIL] == RUNS
    assert median <= 15


def test_a_fifth_of_the_bound_passes() -> None:
    verdicts, median = many(BOUND / 5, 50)
    assert verdicts[Verdict.PASS] >= 0.95 * RUNS
    assert median <= 10


def test_bursts_below_the_bound_seldom_fail() -> None:
    verdicts, _ = many(0.6 * BOUND, 50, burst=10.0, hold=60)
    assert verdicts[Verdict.FAIL] <= 0.1 * RUNS


def test_bursts_over_the_bound_seldom_pass_once_the_hold_has_met_them() -> None:
    verdicts, _ = many(2 * BOUND, 50, burst=10.0, hold=60)
    assert verdicts[Verdict.PASS] <= 0.05 * RUNS
