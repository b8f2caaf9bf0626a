"""A request on its way through the model, and the bounded queue between those who ask and whoever runs the model."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from modelramp_server.protocol.errors import OutOfTime, QueueFull, QueueSlow, ServingError
from modelramp_server.protocol.tensors import Array

# Of a request's time: what the work before it may take. The rest is for what the estimate does not know.
_SHARE = 0.7
LEFT = "left"
_IDLE = 1.0
_PRESENT: Mapping[str, Any] = {}

Outputs = dict[str, Array]
Done = Callable[[Outputs, ServingError | None], None]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """Checked inputs, and who gets the outputs or an error. Times are of the monotonic clock, in seconds.

    `done` is called once, on the event loop; `over` says that it has been, or that nobody wants it to be any more.
    `params` is what the model is told beside the inputs, as canonical JSON, or b""; `client` has the key LEFT once
    nobody waits for the answer any more.
    """

    inputs: dict[str, Array]
    rows: int
    deadline: float
    budget: float
    done: Done
    params: bytes = b""
    client: Mapping[str, Any] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=dict)
    error: ServingError | None = None
    queued: float = field(default_factory=time.monotonic)
    over: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def key(self) -> Hashable:
        """Jobs with one key may share a forward: same params, names, dtypes and trailing shapes."""
        return self.params, *[(name, array.dtype, array.shape[1:]) for name, array in self.inputs.items()]


class ShortForwards(Protocol):
    """Runs jobs on the event loop itself: batching/short_forwards.py."""

    def rows(self, waiting: Sequence[Job]) -> int:
        """Rows that the next forward may take here; 0 where it is the thread's."""
        ...

    def run(self, jobs: list[Job], more: bool) -> None:
        """Put outputs or an error into each; `more` says whether others wait."""
        ...

    def helps(self, behind: int) -> bool:
        """Whether jobs of one row may run here while the thread runs others, and so many wait for it."""
        ...

    def help(self, job: Job) -> None:
        """Put outputs or an error into it, meanwhile."""
        ...


class JobQueue:
    """Jobs on their way to the model: to its thread, or to the event loop while forwards are short. None ends the
    thread. `waiting` counts what is not yet answered.

    `seconds_per_row` is written by whoever runs the model: what a row takes when there is no lack of them.
    """

    def __init__(self, limit: int) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._new: deque[Job] = deque()
        self._away = 0
        self._watching = False
        self.short: ShortForwards | None = None
        self.limit = limit
        self._rows = 0
        self.waiting = 0
        self.seconds_per_row = 0.0

    def admit(self, rows: int, deadline: float) -> None:
        """Refuse at once what could not be answered in its time: its forward would only take others' time.

        Raises:
            QueueFull: as many requests wait as the queue holds.
            QueueSlow: what waits already takes too long.
        """
        if not self.waiting and not self._away:
            return
        wait = self._rows * self.seconds_per_row
        if self.waiting >= self.limit or self._jobs.qsize() >= self.limit:
            raise QueueFull(self.limit, max(1, math.ceil(wait)))
        if self._rows and wait + rows * self.seconds_per_row > _SHARE * (deadline - time.monotonic()):
            raise QueueSlow(wait, max(1, math.ceil(wait)))

    def submit(self, job: Job) -> None:
        """Queue one job. On the event loop, as everything here but `pull` and `end`.

        Raises:
            QueueFull, QueueSlow: see `admit`.
        """
        self.admit(job.rows, job.deadline)
        self.waiting += 1
        self._rows += job.rows
        if not self._new:
            asyncio.get_running_loop().call_soon(self._turn)
        self._new.append(job)

    async def answer(
        self,
        inputs: dict[str, Array],
        rows: int,
        deadline: float,
        budget: float,
        params: bytes = b"",
        client: Mapping[str, Any] = _PRESENT,
    ) -> Outputs:
        """Queue one request and wait for its outputs.

        Raises:
            QueueFull, QueueSlow: see `admit`.
            OutOfTime: the deadline passed.
            ClientLeft: nobody waits for the answer any more.
            ModelFailed: the model raised.
        """
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()

        def done(outputs: Outputs, error: ServingError | None) -> None:
            if future.done():  # cancelled, and its task has not had its turn yet
                return
            if error is None:
                future.set_result(outputs)
            else:
                future.set_exception(error)

        job = Job(inputs, rows, deadline, budget, done, params, client)
        self.submit(job)
        try:
            return await future
        finally:
            self._end(job)

    def settle(self, jobs: list[Job]) -> None:
        """Hand the thread's results to whoever waits for them."""
        self._away -= len(jobs)
        self._settle(jobs)

    def _turn(self) -> None:
        """Once in a turn of the event loop: what came in it goes to the model together.

        After a forward here the loop gets its turn before the next one: what it reads then is in the next batch.
        """
        rows = self.short.rows(self._new) if self.short is not None and not self._away else 0
        if not rows:
            return self._hand_over()
        jobs = [self._new.popleft()]
        rows -= jobs[0].rows
        while self._new and (rows := rows - self._new[0].rows) >= 0:
            jobs.append(self._new.popleft())
        if self._new:
            asyncio.get_running_loop().call_soon(self._turn)
        assert self.short is not None
        self.short.run(jobs, bool(self._new))
        self._settle(jobs)

    def _hand_over(self) -> None:
        """All at once: a thread that is woken for the first would only take the interpreter from the second."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        self._away += len(self._new)
        for job in self._new:
            job.timer = loop.call_later(max(0.0, job.deadline - now), self._expire, job)
            self._jobs.put(job)
        self._new.clear()
        self._watch()

    def _watch(self) -> None:
        if not self._watching and self.short is not None and self.short.helps(self._jobs.qsize()):
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._help)  # after the first step of tasks for what is read now

    def _help(self) -> None:
        """Run one of the thread's jobs, in a turn of the event loop that brought no new ones: it has the time, then."""
        self._watching = False
        short, one_row_each = self.short, self._rows == self.waiting
        if short is None or self._new or not one_row_each or not short.helps(self._jobs.qsize()):
            return
        try:
            job = self._jobs.get_nowait()
        except Empty:
            return
        if job is None:
            return self.end()
        short.help(job)
        self.settle([job])
        self._watch()

    def _settle(self, jobs: list[Job]) -> None:
        for job in jobs:
            if self._end(job):
                try:
                    job.done(job.outputs, job.error)
                except Exception:
                    log.exception("telling a request its outcome failed")

    def _expire(self, job: Job) -> None:
        if self._end(job):
            job.done({}, OutOfTime(job.budget))

    def _end(self, job: Job) -> bool:
        """Whether somebody still waits for this job, whom nobody else will tell from now on."""
        if job.over:
            return False
        job.over = True
        self.waiting -= 1
        self._rows -= job.rows
        if job.timer is not None:
            job.timer.cancel()
        return True

    def pull(self, rows: int, delay: float, idle: Callable[[], None] = lambda: None) -> list[Job] | None:
        """Wait for a job, then take what is there, up to `rows` rows; None when the queue has ended.

        Args:
            rows: rows to stop at.
            delay: seconds to wait for more once there is one, as long as the time of all that are there allows.
            idle: called each second without a job.
        """
        while True:
            try:
                first = self._jobs.get(timeout=_IDLE)
                break
            except Empty:
                idle()
        if first is None:
            return None
        pulled, count = [first], first.rows
        until = min((now := time.monotonic()) + delay, (now + first.deadline) / 2) if delay else 0.0
        while count < rows:
            left = until - time.monotonic() if delay else 0.0
            try:
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                self.end()
                break
            pulled.append(job)
            count += job.rows
            if delay:
                until = min(until, (time.monotonic() + job.deadline) / 2)
        return pulled

    def end(self) -> None:
        """Let the model thread finish after the jobs already queued."""
        self._jobs.put(None)

    def depth(self) -> int:
        """Jobs that no forward has begun for."""
        return self._jobs.qsize() + len(self._new)
