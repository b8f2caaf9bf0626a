"""The arithmetic of drift: the distance, what is certain of it, and answers that share a cause."""

import math
from itertools import chain, combinations

import pytest

from modelramp.domain.distance import BEYOND, Comparison, Side

THRESHOLD = math.log(20)


def compared(*looks: tuple[dict[str, int], dict[str, int]]) -> Comparison:
    comparison = Comparison()
    for candidate, stable in looks:
        comparison = comparison.add(candidate, stable)
    return comparison


SAME = ({"a": 5, "b": 5}, {"a": 45, "b": 45})
MOVED = ({"a": 9, "b": 1}, {"a": 45, "b": 45})


def test_the_distance_is_half_the_sum_of_the_differences_of_the_shares() -> None:
    assert compared(SAME).distance == 0
    assert compared(MOVED).distance == pytest.approx(0.4)
    assert compared(({"c": 3}, {"a": 4, "b": 4})).distance == pytest.approx(1)
    assert Comparison().distance == 0


def test_looks_are_compared_each_with_itself() -> None:
    """Both sides follow the traffic from a to b while the weight changes: pooled shares would differ, looks do not."""
    comparison = compared(({"a": 1}, {"a": 99}), ({"b": 50}, {"b": 50}))
    assert comparison.distance == 0
    assert comparison.candidate.share("b") > comparison.stable.share("b") + 0.5


def test_a_look_without_one_side_compares_nothing() -> None:
    comparison = compared(SAME, ({}, {"a": 100}), ({"b": 100}, {}))
    assert (comparison.looks, comparison.pairs) == (1, pytest.approx(9))
    assert comparison.distance == 0


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.3])
def test_above_is_the_mean_over_all_sets_of_classes(limit: float) -> None:
    comparison = compared(
        ({"a": 6, "b": 1, "c": 3}, {"a": 30, "b": 30, "c": 30}), ({"a": 4, "b": 2}, {"b": 20, "c": 9})
    )
    assert comparison.dispersion > 1
    pairs = comparison.pairs / comparison.dispersion
    names = sorted(comparison.excess)
    sets = list(chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)))
    terms = [
        math.exp(
            4 * beyond * (sum(comparison.excess[name] for name in chosen) / comparison.dispersion - limit * pairs)
            - (4 * beyond) ** 2 * pairs / 8
        )
        for beyond in BEYOND
        for chosen in sets
    ]
    assert comparison.log_above(limit) == pytest.approx(math.log(sum(terms) / len(terms)))


def test_what_is_far_is_certainly_far_and_what_is_near_certainly_near() -> None:
    far, near = compared(*[MOVED] * 20), compared(*[SAME] * 50)
    assert far.log_above(0.1) > THRESHOLD > 0 > far.log_below(0.1)
    assert near.log_below(0.2) > THRESHOLD > 0 > near.log_above(0.1)


def test_more_of_the_same_is_foretold() -> None:
    half, whole = compared(*[SAME] * 20), compared(*[SAME] * 60)
    assert half.log_below(0.2, more=2.0) == pytest.approx(whole.log_below(0.2))


def test_even_answers_have_no_common_cause() -> None:
    assert Side().add({"a": 3, "b": 7}).add({"a": 2, "b": 8}).index == 1
    assert Side().add({"a": 3}).add({"a": 9}).index == 1
    assert Side().add({"a": 3, "b": 7}).add({}).index == 1


def test_the_index_is_pearsons_chi_square_per_degree_of_freedom() -> None:
    """Two looks, ten answers each, one class each: expected 5 in every cell, so 4 x 25 / 5 with one degree."""
    assert Side().add({"a": 10}).add({"b": 10}).index == pytest.approx(20)


def test_clusters_weigh_less_on_whichever_side_they_fall() -> None:
    """Ten times as many answers, each ten times over, are about as certain as one tenth of them."""
    uneven = [({"a": 90, "b": 10}, SAME[1]), ({"a": 90, "b": 10}, SAME[1])] * 4
    steady = compared(*uneven)
    clustered = compared(*[({"a": 100}, SAME[1]), ({"a": 80, "b": 20}, SAME[1])] * 4)
    assert clustered.distance == pytest.approx(steady.distance)
    assert clustered.dispersion > 5
    assert clustered.log_above(0.1) < steady.log_above(0.1) / 3
