"""The work queue on a clock of the test's own."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from modelramp.engine.leader import LeaseLost
from modelramp.engine.queue import WorkQueue
from modelramp.ports import ClusterError, Conflict, Key

A, B = Key("shop", "a"), Key("shop", "b")


@dataclass
class FakeTimer:
    due: float
    callback: Callable[[Key], None]
    key: Key
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def when(self) -> float:
        return self.due


@dataclass
class FakeTimers:
    now: float = 0.0
    timers: list[FakeTimer] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[Key], None], key: Key, /) -> FakeTimer:
        timer = FakeTimer(when, callback, key)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [t for t in self.timers if t.due <= self.now and not t.cancelled]
        self.timers = [t for t in self.timers if t.due > self.now]
        for timer in sorted(due, key=FakeTimer.when):
            timer.callback(timer.key)


@pytest.fixture
def timers() -> FakeTimers:
    return FakeTimers()


@pytest.fixture
def queue(timers: FakeTimers) -> WorkQueue:
    return WorkQueue(timers)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_key_added_twice_is_run_once(queue: WorkQueue) -> None:
    queue.add(A)
    queue.add(A)
    assert await queue.get() == A
    assert len(queue) == 0


async def test_a_key_added_while_it_runs_is_run_again_afterwards_and_not_before(queue: WorkQueue) -> None:
    queue.add(A)
    await queue.get()
    queue.add(A)
    queue.add(A)
    assert len(queue) == 0
    queue.done(A)
    assert await queue.get() == A
    queue.done(A)
    assert len(queue) == 0


async def test_keys_come_in_the_order_in_which_they_were_added(queue: WorkQueue) -> None:
    queue.add(B)
    queue.add(A)
    assert [await queue.get(), await queue.get()] == [B, A]


async def test_of_two_delays_the_earlier_wins(queue: WorkQueue, timers: FakeTimers) -> None:
    queue.add_after(A, 10)
    queue.add_after(A, 3)
    queue.add_after(A, 20)
    timers.advance(2.9)
    assert len(queue) == 0
    timers.advance(0.1)
    assert len(queue) == 1
    await queue.get()
    queue.done(A)
    timers.advance(30)
    assert len(queue) == 0


async def test_a_key_that_is_taken_up_forgets_its_timer(queue: WorkQueue, timers: FakeTimers) -> None:
    queue.add_after(A, 10)
    queue.add(A)
    await queue.get()
    queue.done(A)
    timers.advance(10)
    assert len(queue) == 0


async def test_a_delay_asked_for_while_the_key_runs_is_kept(queue: WorkQueue, timers: FakeTimers) -> None:
    queue.add(A)
    await queue.get()
    queue.add_after(A, 5)
    queue.done(A)
    timers.advance(5)
    assert len(queue) == 1


async def test_back_off_doubles_to_a_limit_and_is_forgotten_after_success(queue: WorkQueue) -> None:
    delays = [queue.add_rate_limited(A) for _ in range(13)]
    assert delays[:4] == [0.05, 0.1, 0.2, 0.4]
    assert delays[-1] == 60.0
    assert queue.add_rate_limited(B) == 0.05
    queue.forget(A)
    assert queue.add_rate_limited(A) == 0.05


async def test_a_worker_runs_one_pass_per_key_at_a_time_and_others_beside_it(queue: WorkQueue) -> None:
    running: list[Key] = []
    most: list[int] = []
    go = asyncio.Event()

    async def handler(key: Key) -> None:
        assert key not in running
        running.append(key)
        most.append(len(running))
        await go.wait()
        running.remove(key)

    workers = asyncio.create_task(queue.run_workers(4, handler))
    queue.add(A)
    queue.add(B)
    await settle()
    queue.add(A)
    await settle()
    assert sorted(running) == [A, B]
    go.set()
    await settle()
    assert len(most) == 3 and max(most) == 2
    await stop(workers)


async def test_what_the_handler_returns_is_when_it_runs_again(queue: WorkQueue, timers: FakeTimers) -> None:
    passes: list[float] = []

    async def handler(key: Key) -> float | None:
        passes.append(timers.now)
        return 7.0 if len(passes) == 1 else None

    workers = asyncio.create_task(queue.run_workers(1, handler))
    queue.add(A)
    await settle()
    timers.advance(7)
    await settle()
    timers.advance(1000)
    await settle()
    assert passes == [0.0, 7.0]
    await stop(workers)


@pytest.mark.parametrize("error", [Conflict("changed"), ClusterError("no answer"), ValueError("a bug")])
async def test_a_failed_pass_is_tried_again_and_ends_no_worker(
    queue: WorkQueue, timers: FakeTimers, error: Exception
) -> None:
    passes = 0

    async def handler(key: Key) -> None:
        nonlocal passes
        passes += 1
        if passes < 3:
            raise error

    workers = asyncio.create_task(queue.run_workers(1, handler))
    queue.add(A)
    await settle()
    timers.advance(0.05)
    await settle()
    timers.advance(0.05)
    await settle()
    assert passes == 2  # the second back-off is longer
    timers.advance(0.05)
    await settle()
    assert passes == 3
    timers.advance(100)
    await settle()
    assert passes == 3
    await stop(workers)


async def test_an_error_is_logged_with_the_object_it_is_about(
    queue: WorkQueue, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(key: Key) -> None:
        raise ClusterError("PATCH x: 403: forbidden")

    workers = asyncio.create_task(queue.run_workers(1, handler))
    with caplog.at_level(logging.WARNING):
        queue.add(A)
        await settle()
    (record,) = caplog.records
    assert (record.__dict__["namespace"], record.__dict__["mdep"]) == A
    assert "403" in record.getMessage()
    await stop(workers)


async def test_a_lost_lease_ends_all_workers(queue: WorkQueue) -> None:
    async def handler(key: Key) -> None:
        raise LeaseLost("somebody else leads")

    queue.add(A)
    with pytest.raises(ExceptionGroup) as lost:
        await queue.run_workers(3, handler)
    assert lost.group_contains(LeaseLost)


async def test_the_longest_running_pass_tells_its_age(queue: WorkQueue, timers: FakeTimers) -> None:
    assert queue.longest_running() == 0
    queue.add(A)
    queue.add(B)
    await queue.get()
    timers.advance(40)
    await queue.get()
    timers.advance(2)
    assert queue.longest_running() == 42
    queue.done(A)
    assert queue.longest_running() == 2


async def stop(workers: "asyncio.Task[None]") -> None:
    workers.cancel()
    with pytest.raises(asyncio.CancelledError):
        await workers


async def test_changes_that_come_together_are_looked_at_once(queue: WorkQueue, timers: FakeTimers) -> None:
    for _ in range(5):
        queue.add_soon(A)
        timers.advance(0.03)
    assert len(queue) == 0
    timers.advance(0.1)
    assert await queue.get() == A
    queue.add_soon(A)  # seen while the pass runs: it may be too late for it
    queue.done(A)
    timers.advance(0.2)
    assert await queue.get() == A
    assert len(queue) == 0
