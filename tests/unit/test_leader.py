"""Leader election on a clock of the test's own: who may write, and when somebody else may."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from modelramp.adapters.kube_api import WRITE_SECONDS
from modelramp.engine.leader import Leader, LeaseLost, LeaseRecord, LeaseTimes
from modelramp.ports import ClusterError, Conflict

TIMES = LeaseTimes()


@dataclass
class FakeClock:
    """``skew`` is how wrong this machine's wall clock is."""

    seconds: float = 0.0
    skew: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds) + self.skew

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class FakeStore:
    record: LeaseRecord | None = None
    reachable: bool = True
    conflicts: int = 0
    version: int = 0

    async def read(self) -> LeaseRecord | None:
        self._reach()
        return self.record

    async def write(self, record: LeaseRecord) -> LeaseRecord:
        self._reach()
        present = self.record.resource_version if self.record else ""
        if self.conflicts or record.resource_version != present:
            self.conflicts = max(0, self.conflicts - 1)
            raise Conflict("changed")
        self.version += 1
        self.record = replace(record, resource_version=str(self.version))
        return self.record

    def _reach(self) -> None:
        if not self.reachable:
            raise ClusterError("no answer")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


async def test_nobody_may_write_before_it_leads(store: FakeStore, clock: FakeClock) -> None:
    leader = Leader(store, clock, "one")
    with pytest.raises(LeaseLost):
        leader.may_write()
    assert await leader.attempt()
    leader.may_write()


async def test_of_two_only_the_first_leads(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    assert await one.attempt()
    assert not await two.attempt()
    with pytest.raises(LeaseLost):
        two.may_write()


async def test_a_holder_that_renews_is_never_replaced(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    for _ in range(100):
        assert await one.attempt()
        assert not await two.attempt()
        clock.seconds += 2
    assert store.record and store.record.transitions == 0


async def test_a_silent_holder_may_not_write_before_another_takes_over(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    await one.attempt()
    await two.attempt()
    clock.seconds += TIMES.renew_deadline - 0.01
    one.may_write()
    clock.seconds += 0.01
    with pytest.raises(LeaseLost, match="not renewed"):
        one.may_write()
    clock.seconds = TIMES.duration - 0.01
    assert not await two.attempt()
    clock.seconds += 0.01
    assert await two.attempt()
    assert store.record and (store.record.holder, store.record.transitions) == ("two", 1)


def test_a_write_begun_in_time_ends_before_anyone_may_take_over() -> None:
    assert TIMES.renew_deadline + WRITE_SECONDS < TIMES.duration


@pytest.mark.parametrize("skew", [timedelta(minutes=10), timedelta(minutes=-10)])
async def test_clocks_of_two_machines_are_not_compared(store: FakeStore, skew: timedelta) -> None:
    here, there = FakeClock(), FakeClock(skew=skew)
    one, two = Leader(store, here, "one"), Leader(store, there, "two")
    for _ in range(20):
        assert await one.attempt()
        assert not await two.attempt()
        here.seconds += 2
        there.seconds += 2


async def test_a_frozen_leader_that_was_replaced_stays_out(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    await one.attempt()
    await two.attempt()
    clock.seconds += 60
    assert await two.attempt()
    with pytest.raises(LeaseLost):
        one.may_write()
    assert not await one.attempt()
    with pytest.raises(LeaseLost):
        one.may_write()


async def test_a_conflict_at_renewal_is_no_loss_while_the_lease_is_fresh(store: FakeStore, clock: FakeClock) -> None:
    leader = Leader(store, clock, "one")
    await leader.attempt()
    clock.seconds += 2
    store.conflicts = 1
    assert not await leader.attempt()
    leader.may_write()
    assert await leader.attempt()


async def test_the_age_counts_from_before_the_renewal_was_sent(store: FakeStore, clock: FakeClock) -> None:
    leader = Leader(store, clock, "one")
    write = store.write

    async def slow_write(record: LeaseRecord) -> LeaseRecord:
        clock.seconds += 8
        return await write(record)

    store.write = slow_write  # type: ignore[method-assign]
    await leader.attempt()
    clock.seconds += 2
    with pytest.raises(LeaseLost):
        leader.may_write()


async def test_holding_ends_when_renewing_fails_too_long(
    store: FakeStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        clock.seconds += seconds

    monkeypatch.setattr("modelramp.engine.leader.asyncio.sleep", sleep)
    leader = Leader(store, clock, "one")
    await leader.acquire()
    store.reachable = False
    with pytest.raises(LeaseLost):
        await leader.hold()
    assert clock.seconds == TIMES.renew_deadline


async def test_waiting_goes_on_through_failures(
    store: FakeStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        clock.seconds += seconds
        store.reachable = clock.seconds > 6

    monkeypatch.setattr("modelramp.engine.leader.asyncio.sleep", sleep)
    store.reachable = False
    leader = Leader(store, clock, "one")
    await leader.acquire()
    leader.may_write()


async def test_a_released_lease_is_taken_at_once(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    await one.attempt()
    await one.release()
    with pytest.raises(LeaseLost):
        one.may_write()
    assert await two.attempt()


async def test_a_renewal_whose_answer_was_not_seen_keeps_nobody_waiting(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    await one.attempt()
    assert store.record
    await store.write(replace(store.record, renewed=clock.now()))
    await one.release()
    assert await two.attempt()


async def test_a_leader_that_was_replaced_does_not_release_the_others_lease(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    await one.attempt()
    await two.attempt()
    clock.seconds += TIMES.duration
    assert await two.attempt()
    await one.release()
    assert store.record and store.record.holder == "two"


@pytest.mark.parametrize("error", [None, LeaseLost("lost"), asyncio.CancelledError()])
async def test_the_lease_is_given_up_when_the_writing_has_ended(
    store: FakeStore, clock: FakeClock, error: BaseException | None
) -> None:
    leader = Leader(store, clock, "one")
    await leader.attempt()

    async def write() -> None:
        leader.may_write()
        assert store.record and store.record.holder == "one"
        if error is not None:
            raise error

    with nullcontext() if error is None else pytest.raises(type(error)):
        await leader.resign_after(write())
    assert store.record and store.record.holder == ""


async def test_who_leads_and_who_could_take_part(store: FakeStore, clock: FakeClock) -> None:
    one, two, cut_off = (Leader(store, clock, name) for name in ("one", "two", "cut off"))
    assert not one.takes_part
    await one.attempt()
    await two.attempt()
    assert one.takes_part and two.takes_part
    store.reachable = False
    with pytest.raises(ClusterError):
        await cut_off.attempt()
    assert not cut_off.takes_part


async def test_a_lease_given_up_right_after_a_look_is_taken_within_a_second(
    store: FakeStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    await one.attempt()

    async def sleep(seconds: float) -> None:
        await one.release()
        clock.seconds += seconds

    monkeypatch.setattr("modelramp.engine.leader.asyncio.sleep", sleep)
    await two.acquire()
    assert clock.seconds <= 1.0


async def test_a_follower_that_releases_takes_nothing_from_the_leader(store: FakeStore, clock: FakeClock) -> None:
    one, two = Leader(store, clock, "one"), Leader(store, clock, "two")
    await one.attempt()
    await two.attempt()
    await two.release()
    assert store.record and store.record.holder == "one"


async def test_a_pods_restarted_container_goes_on_as_the_same_holder(store: FakeStore, clock: FakeClock) -> None:
    await Leader(store, clock, "operator-0").attempt()
    assert await Leader(store, clock, "operator-0").attempt()
    assert store.record and store.record.transitions == 0
