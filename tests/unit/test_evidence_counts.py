"""From cumulative counters to intervals, and how errors cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelramp.domain.counts import NOTHING, BadWindow, Counts, dispersion_index, interval

COUNTS = st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)).map(lambda it: Counts(max(it), min(it)))
PODS = st.dictionaries(st.sampled_from("abcdef"), COUNTS)


@pytest.mark.parametrize(
    ("previous", "current", "born", "expected"),
    [
        pytest.param({"a": (10, 1)}, {"a": (25, 3)}, (), (15, 2), id="counts on"),
        pytest.param({}, {"a": (25, 3)}, (), (0, 0), id="first seen is a baseline"),
        pytest.param({}, {"a": (25, 3)}, ("a",), (25, 3), id="born since: all of it is new"),
        pytest.param({"a": (10, 1)}, {}, (), (0, 0), id="vanished"),
        pytest.param({"a": (10, 1)}, {"a": (4, 2)}, (), (4, 2), id="reset: all of it is new"),
        pytest.param({"a": (10, 3)}, {"a": (12, 1)}, (), (12, 1), id="reset shown by the bad alone"),
        pytest.param({"a": (10, 0)}, {"a": (11, 2)}, (), (1, 1), id="never more bad than requests"),
        pytest.param({"a": (10, 1), "b": (5, 0)}, {"a": (11, 1), "b": (7, 1), "c": (9, 9)}, (), (3, 1), id="sum"),
    ],
)
def test_interval(previous, current, born, expected):
    before = {key: Counts(*value) for key, value in previous.items()}
    now = {key: Counts(*value) for key, value in current.items()}
    assert interval(before, now, born) == Counts(*expected)


@given(previous=PODS, current=PODS, born=st.sets(st.sampled_from("abcdef")), order=st.randoms())
def test_interval_is_possible_and_knows_no_order(previous, current, born, order):
    found = interval(previous, current, born)
    assert 0 <= found.bad <= found.requests <= sum(each.requests for each in current.values())
    shuffled = list(current.items())
    order.shuffle(shuffled)
    assert interval(previous, dict(shuffled), born) == found


@given(PODS)
def test_nothing_happens_while_counters_stand(pods):
    assert interval(pods, pods) == NOTHING


@given(st.lists(COUNTS, min_size=1, max_size=10))
def test_intervals_of_a_living_pod_add_up(steps):
    total, seen = NOTHING, NOTHING
    for step in steps:
        seen += interval({"a": total}, {"a": total + step})
        total += step
    assert seen == total


@pytest.mark.parametrize(("requests", "bad"), [(-1, 0), (3, 4), (3, -1)])
def test_impossible_counts_are_refused(requests, bad):
    with pytest.raises(ValueError, match="impossible counts"):
        Counts(requests, bad)


def window(*bad_per_second):
    return BadWindow(len(bad_per_second), sum(bad_per_second), sum(bad * bad for bad in bad_per_second))


def test_dispersion_is_variance_over_mean():
    # mean 1, variance (9 + 1 + 1 + 1) / 4 = 3
    assert dispersion_index([window(4, 0, 0, 0)]) == pytest.approx(3.0)
    assert dispersion_index([window(4, 0), window(0, 0)]) == pytest.approx(3.0)


@pytest.mark.parametrize("windows", [[], [window()], [window(0, 0, 0)], [window(1, 1, 1)]])
def test_dispersion_is_never_below_one(windows):
    assert dispersion_index(windows) == 1.0
