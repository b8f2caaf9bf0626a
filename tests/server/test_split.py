"""The split: read strictly, aged on a clock of the pod's own, never young twice; dealt exactly."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelramp_server.relay.accumulator import Accumulator
from modelramp_server.relay.split import Split, SplitState, UnreadableSplit, parse
from modelramp_server.relay.split_file import SplitFile
from tests.server.served import split

START = 1000.0


def observed(*texts: str | None, at_start: str | None = None) -> SplitState:
    state = SplitState()
    state.observe(parse(at_start) if at_start else None, START - 1)
    for text in texts:
        state.observe(parse(text) if text else None, START)
    return state


def weight(state: SplitState, now: float) -> int:
    found = state.in_force(now)
    return found.weight if found else 0


def test_fields_it_does_not_know_are_ignored() -> None:
    assert parse(split(17, 10, fresh="field")) == Split(
        v=1, generation=17, revision="bbbbbbbb", weight=10, salt="s1", ttl=120
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2}, {"v": None}, {"generation": 0}, {"generation": "17"}, {"generation": 1.5}, {"generation": True},
        {"revision": "3F2A9C01"}, {"revision": "3f2a9c0"}, {"revision": "3f2a9c01\n"}, {"revision": "../../a"},
        {"weight": 101}, {"weight": -1}, {"weight": 10.5}, {"weight": "10"}, {"weight": None},
        {"salt": None}, {"salt": 8}, {"ttl": 0}, {"ttl": -5}, {"ttl": "120"}, {"ttl": True}, {"ttl": None},
    ],
)  # fmt: skip
def test_what_it_cannot_read_it_says(changes: dict[str, object]) -> None:
    with pytest.raises(UnreadableSplit):
        parse(json.dumps({**json.loads(split(17, 10)), **changes}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"v":1}', "NaN"])
def test_rubbish_is_no_split(text: str) -> None:
    with pytest.raises(UnreadableSplit):
        parse(text)


def test_a_generation_holds_for_its_ttl_and_not_longer() -> None:
    state = observed(split(1, 10))
    assert weight(state, START) == weight(state, START + 119.9) == 10
    assert weight(state, START + 120) == 0
    assert state.generation == 1


def test_a_renewed_generation_holds_on() -> None:
    state = observed(split(1, 10))
    state.observe(parse(split(2, 10)), START + 100)
    assert weight(state, START + 219) == 10


def test_a_generation_seen_is_never_young_again() -> None:
    state = observed(split(2, 10))
    for old in (split(2, 50), split(1, 90)):
        state.observe(parse(old), START + 100)
        assert weight(state, START + 119) == 10
        assert weight(state, START + 121) == 0


def test_a_container_that_starts_waits_for_a_new_generation() -> None:
    state = observed(split(5, 10), at_start=split(5, 10))
    assert (weight(state, START), state.generation) == (0, 0)
    state.observe(parse(split(6, 10)), START)
    assert (weight(state, START), state.generation) == (10, 6)


def test_weight_nothing_found_at_start_is_acknowledged() -> None:
    assert observed(at_start=split(5, 0)).generation == 5


def test_a_shadow_found_at_start_is_not_acknowledged() -> None:
    rules = {"share": 20, "tolerance": 0.01, "iou": 0.9}
    assert observed(at_start=split(5, 0, shadow=rules)).generation == 0


def test_a_split_that_appears_after_the_start_is_obeyed() -> None:
    assert weight(observed(split(5, 10)), START) == 10


def test_hand_over_never_expires_and_is_obeyed_by_a_restarted_container() -> None:
    state = observed(at_start=split(9, 100, ttl=None))
    assert (weight(state, START + 1e9), state.generation) == (100, 9)


def test_a_split_that_goes_away_or_turns_unreadable_is_not_in_force() -> None:
    state = observed(split(3, 10), None)
    assert (weight(state, START), state.generation) == (0, 0)
    state.observe(parse(split(3, 10)), START + 60)
    assert weight(state, START + 61) == 10
    assert weight(state, START + 121) == 0


@given(st.text(max_size=8), st.text(max_size=8), st.integers(0, 100), st.integers(0, 300))
def test_any_hundred_requests_are_dealt_exactly(salt: str, pod: str, share: int, skipped: int) -> None:
    accumulator = Accumulator(salt, pod)
    for _ in range(skipped):
        accumulator.deal(share)
    assert sum(accumulator.deal(share) for _ in range(100)) == share


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=20))
def test_changing_weights_are_dealt_within_one_request(phases: list[tuple[int, int]]) -> None:
    accumulator = Accumulator("s", "pod")
    dealt = sum(accumulator.deal(share) for share, count in phases for _ in range(count))
    assert abs(dealt - sum(share * count for share, count in phases) / 100) <= 1


def test_replicas_do_not_move_in_step() -> None:
    def first(pod: str) -> int:
        accumulator = Accumulator("salt", pod)
        return next(turn for turn in range(101) if accumulator.deal(1))

    assert len(Counter(first(f"pod-{number}") for number in range(20))) > 10


def test_the_file_is_followed_through_the_kubelets_links(tmp_path: Path) -> None:
    told: list[str | None] = []
    path = tmp_path / "split"
    file = SplitFile(path, told.append)
    file.poll()
    for name, text in (("one", "first"), ("two", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "split").write_text(text)
        (tmp_path / "..new").symlink_to(name)
        (tmp_path / "..new").replace(tmp_path / "..data")
        if not path.is_symlink():
            path.symlink_to("..data/split")
        file.poll()
        file.poll()
    path.unlink()
    file.poll()
    assert told == [None, "first", "second", None]
