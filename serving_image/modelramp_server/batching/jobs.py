"""A request on its way through the model, and the bounded queue between event loop and model thread."""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from modelramp_server.protocol.errors import OutOfTime, QueueFull, QueueSlow, ServingError
from modelramp_server.protocol.tensors import Array

# Of a request's time: what the work before it may take. The rest is for what the estimate does not know.
_SHARE = 0.7
LEFT = "left"
_PRESENT: Mapping[str, Any] = {}

GroupKey = tuple[bytes, tuple[tuple[str, str, tuple[int, ...]], ...]]


@dataclass(slots=True, eq=False)
class Job:
    """Checked inputs, and the future that gets the outputs. Times are of the monotonic clock, in seconds.

    `params` is what the model is told beside the inputs, as canonical JSON, or b""; `client` has the key LEFT once
    nobody waits for the answer any more.
    """

    inputs: dict[str, Array]
    rows: int
    deadline: float
    budget: float
    future: asyncio.Future[dict[str, Array]]
    params: bytes = b""
    client: Mapping[str, Any] = field(default_factory=lambda: _PRESENT)
    outputs: dict[str, Array] = field(default_factory=dict)
    error: ServingError | None = None
    queued: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> GroupKey:
        """Jobs with one key may share a forward: same params, names, dtypes and trailing shapes."""
        return self.params, tuple((name, array.dtype.str, array.shape[1:]) for name, array in self.inputs.items())

    def settle(self) -> None:
        """Hand the result to whoever waits. Called on the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.outputs)


class JobQueue:
    """Jobs from the event loop to the model thread; None ends it. `waiting` counts what is not yet answered.

    `seconds_per_row` is written by the model thread: what a row takes when there is no lack of them.
    """

    def __init__(self, limit: int) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._new: list[Job] = []
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
        wait = self._rows * self.seconds_per_row
        if self.waiting >= self.limit or self._jobs.qsize() >= self.limit:
            raise QueueFull(self.limit, max(1, math.ceil(wait)))
        if self._rows and wait + rows * self.seconds_per_row > _SHARE * (deadline - time.monotonic()):
            raise QueueSlow(wait, max(1, math.ceil(wait)))

    async def answer(
        self,
        inputs: dict[str, Array],
        rows: int,
        deadline: float,
        budget: float,
        params: bytes = b"",
        client: Mapping[str, Any] = _PRESENT,
    ) -> dict[str, Array]:
        """Queue one request and wait for its outputs.

        Raises:
            QueueFull, QueueSlow: see `admit`.
            OutOfTime: the deadline passed.
            ClientLeft: nobody waits for the answer any more.
            ModelFailed: the model raised.
        """
        self.admit(rows, deadline)
        loop = asyncio.get_running_loop()
        job = Job(inputs, rows, deadline, budget, loop.create_future(), params, client)
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), _expire, job)
        self.waiting += 1
        self._rows += rows
        if not self._new:
            loop.call_soon(self._hand_over)
        self._new.append(job)
        try:
            return await job.future
        finally:
            timer.cancel()
            self.waiting -= 1
            self._rows -= rows

    def _hand_over(self) -> None:
        """What came in one turn of the event loop goes to the model together: a thread that is woken for the first
        would only take the interpreter from the second."""
        for job in self._new:
            self._jobs.put(job)
        self._new.clear()

    def pull(self, rows: int, delay: float) -> list[Job] | None:
        """Wait for a job, then take what is there, up to `rows` rows; None when the queue has ended.

        Args:
            rows: rows to stop at.
            delay: seconds to wait for more once there is one, as long as its own time allows.
        """
        first = self._jobs.get()
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
        return pulled

    def end(self) -> None:
        """Let the model thread finish after the jobs already queued."""
        self._jobs.put(None)

    def depth(self) -> int:
        """Jobs that the model thread has not pulled yet."""
        return self._jobs.qsize()


def _expire(job: Job) -> None:
    if not job.future.done():
        job.future.set_exception(OutOfTime(job.budget))
