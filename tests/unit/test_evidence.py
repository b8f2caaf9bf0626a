"""The tests of the analysis: by hand, against direct computation, and what must hold for any traffic."""

import json
import math
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelramp.domain import errors
from modelramp.domain.counts import Counts
from modelramp.domain.eprocess import rate_increment, ratio_increment
from modelramp.domain.evidence import (
    BELOW_RATE,
    BELOW_STABLE,
    WORSE,
    EvidenceState,
    Settings,
    split_alpha,
    update,
)
from modelramp.domain.verdict import Outcome, verdict

SETTINGS = Settings()
SIDE = st.tuples(st.integers(0, 3000), st.integers(0, 750)).map(lambda it: Counts(it[0], it[1] % (it[0] // 4 + 1)))
LOOKS = st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=12)


def gather(looks, dispersion=1.0, settings=SETTINGS, state=None):
    state = state or EvidenceState()
    for candidate, stable in looks:
        state = update(state, candidate, stable, dispersion, settings)
    return state


def judge(looks, dispersion=1.0, settings=SETTINGS):
    return verdict(gather(looks, dispersion, settings), settings)


@pytest.mark.parametrize("mixture", [BELOW_RATE + BELOW_STABLE, WORSE], ids=["pass", "fail"])
def test_weights_of_a_mixture_sum_to_one(mixture):
    assert math.fsum(weight for _, weight in mixture) == pytest.approx(1.0)


# One bad moment


def test_a_starved_second_fails_nobody_and_a_broken_version_falls_at_the_next_look():
    settings = errors.settings(0.05, 0.01)
    starved, well = (Counts(60, 40), Counts(60, 0)), (Counts(60, 0), Counts(60, 0))
    assert judge([starved], settings=settings).outcome is Outcome.INCONCLUSIVE
    assert judge([starved, *[well] * 30], settings=settings).outcome is not Outcome.FAIL
    assert judge([starved, starved], settings=settings).outcome is Outcome.FAIL


# Pass


@pytest.mark.parametrize(("objective", "needed"), [(0.01, 357), (0.02, 178)])
def test_good_requests_that_certify_an_objective(objective, needed):
    settings = Settings(objective=objective)
    assert verdict(EvidenceState(), settings).requests_needed == needed
    assert judge([(Counts(needed - 1, 0), Counts(3000, 0))], settings=settings).outcome is Outcome.INCONCLUSIVE
    passed = judge([(Counts(needed, 0), Counts(3000, 0))], settings=settings)
    assert passed.outcome is Outcome.PASS
    assert passed.requests_needed == 0
    assert objective * 0.99 < passed.certified_rate <= objective


def test_the_size_of_the_steps_does_not_matter_to_a_pass():
    assert judge([(Counts(1, 0), Counts(9, 0))] * 357).outcome is Outcome.PASS
    assert judge([(Counts(1, 0), Counts(9, 0))] * 356).outcome is Outcome.INCONCLUSIVE


def test_pass_evidence_by_hand():
    found = judge([(Counts(100, 1), Counts(900, 9))])
    absolute = sum(weight * factor * ((1 - factor * 0.01) / 0.99) ** 99 for factor, weight in BELOW_RATE)

    def theta(rho):
        return rho * 100 / (rho * 100 + 900)

    relative = sum(
        weight * theta(2 * factor) / theta(2) * ((1 - theta(2 * factor)) / (1 - theta(2))) ** 9
        for factor, weight in BELOW_STABLE
    )
    assert found.e_pass == pytest.approx(absolute + relative)


def test_a_candidate_like_a_bad_stable_passes_by_comparison():
    found = judge([(Counts(1000, 50), Counts(9000, 450))])
    assert found.outcome is Outcome.PASS
    assert found.reason == (
        "candidate failed 50 of 1000 requests (5.0 %), stable 450 of 9000 (5.0 %): "
        "its rate is below 1.0 % or 2 times stable's with confidence 95 %"
    )


@given(bad=st.integers(0, 5), requests=st.integers(0, 300), dispersion=st.sampled_from([1.0, 2.5, 20.0]))
def test_the_requests_needed_are_just_enough(bad, requests, dispersion):
    state = gather([(Counts(requests + bad, bad), Counts(3000, 0))], dispersion)
    needed = verdict(state, SETTINGS).requests_needed
    assume(needed)

    def then(further):
        return verdict(gather([(Counts(further, 0), Counts(0, 0))], dispersion, state=state), SETTINGS)

    assert then(needed).e_pass >= 20 > then(needed - 1).e_pass


def test_the_present_rate_may_never_pass():
    found = judge([(Counts(500, 15), Counts(4500, 30))])
    assert found.requests_needed_at_this_rate is None
    assert found.requests_needed > 357
    assert judge([(Counts(500, 3), Counts(4500, 30))]).requests_needed_at_this_rate > 357


@given(LOOKS, st.floats(1, 50))
def test_tempering_asks_for_more(looks, dispersion):
    """E is a sum of exponentials in 1/d that is 1 at 0: convex, so tempered <= max(1, untempered)."""
    plain, tempered = judge(looks), judge(looks, dispersion)
    tolerance = 1 + 1e-9
    assert tempered.e_pass <= max(1.0, plain.e_pass) * tolerance
    assert tempered.e_fail <= max(1.0, plain.e_fail) * tolerance


def test_a_dispersion_of_three_asks_for_three_times_as_many():
    needed = judge([(Counts(30, 0), Counts(270, 0))], 3.0).requests_needed
    assert 3 * 356 - 30 < needed <= 3 * 357 - 30


def test_dispersion_below_one_counts_as_one():
    look = [(Counts(400, 4), Counts(3000, 20))]
    assert judge(look, 0.2) == judge(look, 1.0)


@given(SIDE, st.integers(1, 400))
def test_more_good_requests_certify_a_lower_rate(candidate, more):
    def certified(counts):
        return judge([(counts, Counts(0, 0))]).certified_rate

    assert candidate.rate <= certified(candidate)
    assert certified(candidate + Counts(more, 0)) <= certified(candidate) + 1e-6


# Fail


def test_fail_evidence_by_hand():
    found = judge([(Counts(420, 31), Counts(3790, 0))])
    mixed = sum(weight * (rho * (420 + 3790) / (rho * 420 + 3790)) ** 31 for rho, weight in WORSE)
    assert found.e_fail == pytest.approx(0.5 * mixed + 0.5)
    assert found.outcome is Outcome.FAIL
    assert (found.candidate_rate, found.stable_rate) == (31 / 420, 0.0)
    assert found.reason == (
        "candidate failed 31 of 420 requests (7.4 %), stable 0 of 3790 (0.0 %): worse with confidence 95 %"
    )


@given(LOOKS)
def test_the_recursion_is_the_mixture_over_starting_times(looks):
    comparable = [
        (candidate, stable)
        for candidate, stable in looks
        if candidate.requests and candidate.bad + stable.bad and stable.requests >= 0.1 * candidate.requests
    ]
    state = gather(comparable)
    assert state.telling_looks == len(comparable)
    assume(comparable)
    for (rho, _), suspicion in zip(WORSE, state.worse, strict=True):
        gains = [ratio_increment(candidate, stable, rho, 1.0) for candidate, stable in comparable]
        since = list(accumulate(reversed(gains)))[::-1]
        weights = [math.log(1 / ((k + 1) * (k + 2))) + gain for k, gain in enumerate(since)]
        top = max(weights)
        total = sum(math.exp(weight - top) for weight in weights)
        assert suspicion.log_m == pytest.approx(top + math.log(total), abs=1e-6)
        posterior = [math.exp(weight - top) / total for weight in weights]

        def since_start(count, posterior=posterior):
            return pytest.approx(sum(share * sum(map(count, comparable[k:])) for k, share in enumerate(posterior)))

        assert suspicion.candidate_requests == since_start(lambda look: look[0].requests)
        assert suspicion.candidate_bad == since_start(lambda look: look[0].bad)
        assert suspicion.stable_requests == since_start(lambda look: look[1].requests)
        assert suspicion.stable_bad == since_start(lambda look: look[1].bad)


@given(
    candidate=st.integers(1, 60),
    stable=st.integers(1, 60),
    rho=st.sampled_from([rho for rho, _ in WORSE]),
    dispersion=st.sampled_from([1.0, 3.0]),
    data=st.data(),
)
def test_expected_likelihood_ratio_under_the_null_is_at_most_one(candidate, stable, rho, dispersion, data):
    """With equal rates the candidate's bad ones are a draw without replacement from all bad ones."""
    bad = data.draw(st.integers(0, candidate + stable))
    ways = math.comb(candidate + stable, bad)
    expected = 0.0
    for drawn in range(max(0, bad - stable), min(bad, candidate) + 1):
        probability = math.comb(candidate, drawn) * math.comb(stable, bad - drawn) / ways
        increment = ratio_increment(Counts(candidate, drawn), Counts(stable, bad - drawn), rho, 1.0)
        expected += probability * math.exp(increment / dispersion)
    assert expected <= 1 + 1e-9


@given(requests=st.integers(0, 80), rate=st.floats(0.001, 0.9), null=st.floats(0.001, 0.9))
def test_expected_rate_ratio_under_the_null_is_one(requests, rate, null):
    expected = sum(
        math.comb(requests, bad) * null**bad * (1 - null) ** (requests - bad)
        * math.exp(rate_increment(requests, bad, rate, null))
        for bad in range(requests + 1)
    )  # fmt: skip
    assert expected == pytest.approx(1.0)


def test_trouble_that_both_sides_share_accuses_nobody():
    looks = [(Counts(200, 0), Counts(1800, 0))] * 5 + [(Counts(200, 100), Counts(1800, 900))] * 5
    assert judge(looks).outcome is not Outcome.FAIL


def test_much_worse_but_under_the_limit_is_no_fail():
    found = judge([(Counts(100_000, 300), Counts(900_000, 90))])
    assert found.e_fail > 1e6
    assert found.outcome is Outcome.PASS


def test_a_late_regression_is_judged_by_the_rate_since_it_began():
    healthy = [(Counts(100, 0), Counts(900, 1))] * 400
    found = judge([*healthy, *[(Counts(100, 8), Counts(900, 1))] * 4])
    assert found.candidate_rate < SETTINGS.objective
    assert found.outcome is Outcome.FAIL
    assert found.reason == (
        "since it got worse, candidate failed about 32 of 410 requests (7.8 %), "
        "stable 4 of 3691 (0.11 %): worse with confidence 95 %"
    )


def test_hours_without_any_error_cost_no_sensitivity():
    quiet = [(Counts(100, 0), Counts(900, 0))] * 1000
    bad = [(Counts(100, 10), Counts(900, 0))]
    assert judge(quiet + bad).e_fail == pytest.approx(judge(bad).e_fail)


@pytest.mark.parametrize(("bad", "outcome"), [(100, Outcome.FAIL), (12, Outcome.INCONCLUSIVE), (0, Outcome.PASS)])
def test_with_nobody_left_to_compare_with_the_limit_decides(bad, outcome):
    assert judge([(Counts(1000, bad), Counts(0, 0))]).outcome is outcome


def test_alone_a_candidate_may_be_as_bad_as_stable_was():
    before = [(Counts(1000, 40), Counts(9000, 360))]
    assert judge([*before, (Counts(2000, 120), Counts(0, 0))]).e_fail < 1
    assert judge([*before, (Counts(2000, 320), Counts(0, 0))]).outcome is Outcome.FAIL


@pytest.mark.parametrize(("bad", "outcome"), [(2000, Outcome.FAIL), (1100, Outcome.INCONCLUSIVE)])
def test_twice_the_rate_of_a_stable_that_fails_every_second_request_is_no_limit(bad, outcome):
    before = [(Counts(0, 0), Counts(9000, 4500))]
    assert judge([*before, (Counts(2000, bad), Counts(0, 0))]).outcome is outcome


def test_beside_a_stable_that_refuses_a_candidate_is_not_alone():
    """What it refuses is no evidence, but tells that it has requests: trouble of both is not the candidate's."""
    troubled, stable = Counts(1000, 100), Counts(50, 5)
    alone = update(EvidenceState(), troubled, stable, 1.0, SETTINGS)
    beside = update(EvidenceState(), troubled, stable, 1.0, SETTINGS, refused=950)
    assert verdict(alone, SETTINGS).e_fail > 20 > verdict(beside, SETTINGS).e_fail


def test_beside_a_stable_that_refuses_everything_nothing_is_learnt_of_what_is_worse():
    state = update(EvidenceState(), Counts(1000, 100), Counts(0, 0), 1.0, SETTINGS, refused=9000)
    assert (state.telling_looks, verdict(state, SETTINGS).e_fail) == (0, 1.0)
    again = update(state, Counts(1000, 0), Counts(9000, 0), 1.0, SETTINGS)
    assert verdict(again, SETTINGS).outcome is not Outcome.FAIL, "what was learnt of nobody is no trouble of now"


# No data


@pytest.mark.parametrize("look", [(None, Counts(9, 0)), (Counts(9, 0), None), (None, None)])
@pytest.mark.parametrize("bad", [0, 300])
def test_no_data_neither_passes_nor_fails_and_is_got_over(look, bad):
    candidate, stable = look
    state = gather([(Counts(1000, bad), Counts(9000, 0))])
    decided = verdict(state, SETTINGS)
    assert decided.outcome in (Outcome.PASS, Outcome.FAIL)
    state = update(state, candidate, stable, 1.0, SETTINGS)
    missing = verdict(state, SETTINGS)
    assert missing.outcome is Outcome.ERROR
    assert missing.reason == "no data about candidate and stable in the last look: nothing can be judged"
    again = gather([(Counts(0, 0), Counts(0, 0))], state=state)
    assert verdict(again, SETTINGS) == decided


def test_no_requests_decide_nothing():
    found = judge([(Counts(0, 0), Counts(500, 200))] * 50)
    assert (found.outcome, found.e_fail, found.e_pass, found.certified_rate) == (
        Outcome.INCONCLUSIVE, 1.0, pytest.approx(1.0), 1.0,
    )  # fmt: skip
    assert found.reason == (
        "candidate failed 0 of 0 requests (0.0 %), stable 10000 of 25000 (40.0 %): "
        "not decided; 357 more good ones would pass"
    )


# State and settings


@given(LOOKS, st.floats(1, 30))
def test_a_state_survives_storage(looks, dispersion):
    state = gather(looks, dispersion)
    text = json.dumps(state.to_dict(), allow_nan=False, separators=(",", ":"))
    assert len(text) < 2048
    assert EvidenceState.from_dict(json.loads(text)) == state


def test_a_store_may_turn_whole_floats_into_integers():
    state = gather([(Counts(10, 1), Counts(90, 1))])
    data = state.to_dict()
    data["dispersion"], data["effective"] = 1, [10, 1]
    back = EvidenceState.from_dict(data)
    assert back == state
    assert isinstance(back.dispersion, float)


def test_the_largest_state_is_small():
    looks = [(Counts(10**9 + 7, 10**7 + 3), Counts(10**10 + 9, 10**8 + 1))] * 50
    assert len(json.dumps(gather(looks, 7.3).to_dict())) < 2048


@pytest.mark.parametrize(
    "change",
    [
        {"worse": [[0.0] * 5]},
        {"belowStable": [0.0]},
        {"looks": None},
        {"candidate": [1, 2]},
        {"effective": []},
    ],
)
def test_a_strange_state_is_refused(change):
    data = gather([(Counts(10, 1), Counts(90, 1))]).to_dict()
    with pytest.raises(ValueError):
        EvidenceState.from_dict({**data, **change})
    with pytest.raises(ValueError):
        EvidenceState.from_dict({})


@pytest.mark.parametrize("change", [{"alpha": 0.0}, {"objective": 1.0}, {"margin": 1.0}])
def test_settings_that_make_no_test_are_refused(change):
    with pytest.raises(ValueError):
        replace(SETTINGS, **change)


def test_alpha_is_split_over_metrics():
    assert split_alpha(0.05, 2) == 0.025
    assert verdict(EvidenceState(), Settings(alpha=split_alpha(0.05, 2))).requests_needed > 357
