"""The relay's pure parts: outcomes, budget, breaker, p99, and the hour of bad seconds."""

import pytest

from modelramp_server.observability.bad_window import WINDOW, BadWindow
from modelramp_server.relay.breaker import FIRST_REST, LONGEST_REST, PROBES, RUN, Admission, Breaker
from modelramp_server.relay.budget import candidate_budget
from modelramp_server.relay.outcomes import Net, Outcome, judge, judge_local, judge_refusal
from modelramp_server.relay.quantile import RecentP99


@pytest.mark.parametrize(
    ("status", "outcome", "net"),
    [
        (200, Outcome.OK, None),
        (204, Outcome.OK, None),
        (302, Outcome.BAD, Net.STATUS),
        (500, Outcome.BAD, Net.STATUS),
        (502, Outcome.BAD, Net.STATUS),
        (504, Outcome.BAD, Net.STATUS),
        (503, Outcome.ERROR, Net.FULL),
        (401, Outcome.ERROR, Net.REFUSED),
        (403, Outcome.ERROR, Net.REFUSED),
        (429, Outcome.ERROR, Net.REFUSED),
    ],
)
def test_the_candidates_status(status: int, outcome: Outcome, net: Net | None) -> None:
    verdict = judge(status)
    assert verdict is not None and (verdict.outcome, verdict.net) == (outcome, net)


def test_a_refusal_counts_only_where_stable_accepts() -> None:
    assert judge(400) is None
    assert judge_refusal(200).outcome is Outcome.BAD and judge_refusal(200).net is Net.DISAGREES
    for status in (400, 422, 500):
        assert judge_refusal(status).outcome is Outcome.NEUTRAL and judge_refusal(status).net is None


def test_stables_own_answers() -> None:
    assert [judge_local(status) for status in (200, 400, 500, 503)] == [
        Outcome.OK, Outcome.NEUTRAL, Outcome.BAD, Outcome.REFUSED,
    ]  # fmt: skip
    assert [judge_local(status, late=True) for status in (200, 400, 500, 503, 504)] == [
        Outcome.OK, Outcome.NEUTRAL, Outcome.BAD, Outcome.NEUTRAL, Outcome.NEUTRAL,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("left", "stable", "candidate", "budget"),
    [
        (30.0, 0.0, 0.0, 1.0),  # nothing known yet: a second
        (30.0, 0.5, 0.0, 5.0),  # a candidate without a p99 gets stable's
        (30.0, 0.01, 0.4, 4.0),  # ten times its p99
        (30.0, 0.01, 0.401, 4.25),  # a little more of it is the same for a while
        (30.0, 0.01, 0.424, 4.25),
        (3.0, 0.5, 2.0, 0.0),  # not enough for both: no evidence either way
        (3.0, 0.5, 0.6, 1.5),  # half is stable's, however fast it is
        (0.4, 0.001, 0.001, 0.2),
        (4.0, 2.5, 0.2, 1.5),  # what stable leaves
        (0.0, 0.0, 0.0, 0.0),
    ],
)
def test_budget(left: float, stable: float, candidate: float, budget: float) -> None:
    assert candidate_budget(left, stable, candidate) == pytest.approx(budget)


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(RUN):
        breaker.record(breaker.admit(0.0), True, 0.0)
    return breaker


def test_the_breaker_opens_after_a_run_of_failures_only() -> None:
    breaker = Breaker()
    for failed in [True] * (RUN - 1) + [False] + [True] * (RUN - 1):
        breaker.record(breaker.admit(0.0), failed, 0.0)
    assert not breaker.is_open
    breaker.record(breaker.admit(0.0), True, 0.0)
    assert breaker.is_open and breaker.admit(FIRST_REST / 2) is Admission.REFUSED


def test_the_breaker_probes_one_at_a_time_and_closes_after_good_ones() -> None:
    breaker = opened()
    for _ in range(PROBES):
        assert breaker.admit(FIRST_REST) is Admission.PROBE
        assert breaker.admit(FIRST_REST) is Admission.REFUSED
        breaker.record(Admission.PROBE, False, FIRST_REST)
    assert not breaker.is_open and breaker.admit(FIRST_REST) is Admission.FREE


def test_a_failed_probe_doubles_the_rest_up_to_a_bound() -> None:
    breaker, now, rest = opened(), 0.0, FIRST_REST
    for _ in range(8):
        assert breaker.admit(now + rest * 0.99) is Admission.REFUSED
        now += rest
        assert breaker.admit(now) is Admission.PROBE
        breaker.record(Admission.PROBE, True, now)
        rest = min(rest * 2, LONGEST_REST)


def test_a_straggler_from_before_the_opening_is_no_probe() -> None:
    breaker = opened()
    assert breaker.admit(FIRST_REST) is Admission.PROBE
    for failed in (False, True):
        breaker.record(Admission.FREE, failed, FIRST_REST)
    assert breaker.is_open and breaker.admit(FIRST_REST) is Admission.REFUSED


def test_p99_follows_recent_values() -> None:
    p99 = RecentP99()
    assert p99.value == 0
    for number in range(100):
        p99.add(number / 100)
    assert 0.9 < p99.value < 1
    for _ in range(600):
        p99.add(5.0)
    assert p99.value == 5.0


def test_the_bad_window_forgets_after_an_hour() -> None:
    window = BadWindow(100.0)
    for now in (100.1, 100.2, 105.0):
        window.add(now)
    assert window.read(109.5) == (10, 3, 5)
    assert window.read(100 + WINDOW + 3) == (WINDOW, 1, 1)
    assert window.read(100 + 2 * WINDOW) == (WINDOW, 0, 0)
