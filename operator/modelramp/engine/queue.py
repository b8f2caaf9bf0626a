"""A deduplicating work queue with the semantics of client-go's workqueue, on asyncio.

It owns all repetition: one worker per key at a time, whatever arrives meanwhile is done once more afterwards,
failures come back with exponential back-off per key, and a key may ask to come back later (the earliest wish wins). A
key that is taken up forgets its timer: the pass that follows says itself when it wants to run again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from modelramp.engine.leader import LeaseLost
from modelramp.ports import ClusterError, Conflict, Key, RegistryError

logger = logging.getLogger(__name__)

FIRST_BACK_OFF = 0.05
LONGEST_BACK_OFF = 60.0
A_MOMENT = 0.2

Handler = Callable[[Key], Awaitable[float | None]]


class Timer(Protocol):
    def cancel(self) -> None: ...

    def when(self) -> float: ...


class Timers(Protocol):
    """The part of an asyncio event loop that the queue needs; tests bring a clock of their own."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[Key], None], key: Key, /) -> Timer: ...


class WorkQueue:
    """Keys of ModelDeployments that want a pass. Not thread-safe: it lives on one event loop."""

    def __init__(
        self, timers: Timers, first_back_off: float = FIRST_BACK_OFF, longest_back_off: float = LONGEST_BACK_OFF
    ) -> None:
        self._clock = timers
        self._first_back_off = first_back_off
        self._longest_back_off = longest_back_off
        self._waiting: asyncio.Queue[Key] = asyncio.Queue()
        self._since: dict[Key, float] = {}  # of those that wait, in their order
        self._dirty: set[Key] = set()  # wants a pass: waiting, or to be run again when its present one is over
        self._running: dict[Key, float] = {}  # since when
        self._timers: dict[Key, Timer] = {}
        self._failures: dict[Key, int] = {}

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return self._waiting.qsize()

    def oldest_waiting(self) -> float:
        """Seconds that the first key in line has waited; 0 if none waits."""
        return self._clock.time() - next(iter(self._since.values()), self._clock.time())

    def longest_running(self) -> float:
        """Seconds since the oldest pass that is not over began; 0 if none runs."""
        return max((self._clock.time() - since for since in self._running.values()), default=0.0)

    def add(self, key: Key) -> None:
        """Runs the key as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._running:
            self._wait(key)

    def add_soon(self, key: Key) -> None:
        """Runs the key in a moment: a change that was seen seldom comes alone."""
        self.add_after(key, A_MOMENT)

    def add_after(self, key: Key, seconds: float) -> None:
        """Runs the key after ``seconds``, unless it is to run earlier anyway."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = self._clock.call_at(due, self._ring, key)

    def add_rate_limited(self, key: Key) -> float:
        """Runs the key after its back-off, which doubles each time until ``forget``; returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._first_back_off * 2.0 ** min(failures, 32), self._longest_back_off)
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """The key has succeeded: its next failure starts the back-off anew."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """Waits for a key and takes it up; ``done`` must follow."""
        key = await self._waiting.get()
        self._dirty.discard(key)
        del self._since[key]
        self._running[key] = self._clock.time()
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        return key

    def done(self, key: Key) -> None:
        """The pass is over; if the key was added meanwhile, it waits again."""
        del self._running[key]
        if key in self._dirty:
            self._wait(key)

    async def run_workers(self, count: int, handler: Handler) -> None:
        """Runs ``handler`` for the keys, ``count`` at a time, until cancelled or the lease is lost.

        The handler returns the seconds after which the key wants another pass, or None to wait until it is added.
        """
        async with asyncio.TaskGroup() as workers:
            for number in range(count):
                workers.create_task(self._work(handler), name=f"worker-{number}")

    async def _work(self, handler: Handler) -> None:
        while True:
            key = await self.get()
            try:
                await self._run(key, handler)
            finally:
                self.done(key)

    async def _run(self, key: Key, handler: Handler) -> None:
        named = {"namespace": key.namespace, "mdep": key.name}
        try:
            again = await handler(key)
        except LeaseLost:
            raise
        except Conflict:
            self.add_rate_limited(key)
            logger.debug("changed since it was read; reading again", extra=named)
        except (ClusterError, RegistryError) as error:
            delay = self.add_rate_limited(key)
            logger.warning("%s; trying again in %.2g s", error, delay, extra=named)
        except Exception:
            delay = self.add_rate_limited(key)
            logger.exception("unexpected error; trying again in %.2g s", delay, extra=named)
        else:
            self.forget(key)
            if again is not None:
                self.add_after(key, again)

    def _wait(self, key: Key) -> None:
        self._since[key] = self._clock.time()
        self._waiting.put_nowait(key)

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)
