"""A request on its way through the model, and the bounded queue between event loop and model thread."""

import asyncio
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from modelramp_server.protocol.errors import OutOfTime, QueueFull, ServingError
from modelramp_server.protocol.tensors import Array

GroupKey = tuple[bytes, tuple[tuple[str, str, tuple[int, ...]], ...]]


@dataclass(slots=True, eq=False)
class Job:
    """Checked inputs, and the future that gets the outputs. Times are of the monotonic clock, in seconds.

    `params` is what the model is told beside the inputs, as canonical JSON, or b"".
    """

    inputs: dict[str, Array]
    rows: int
    deadline: float
    budget: float
    future: asyncio.Future[dict[str, Array]]
    params: bytes = b""
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
    """Jobs from the event loop to the model thread; None ends it. `waiting` counts what is not yet answered."""

    def __init__(self, limit: int) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._limit = limit
        self.waiting = 0

    async def answer(
        self, inputs: dict[str, Array], rows: int, deadline: float, budget: float, params: bytes = b""
    ) -> dict[str, Array]:
        """Queue one request and wait for its outputs.

        Raises:
            QueueFull: as many requests wait as the queue holds.
            OutOfTime: the deadline passed.
            ModelFailed: the model raised.
        """
        if self.waiting >= self._limit or self._jobs.qsize() >= self._limit:
            raise QueueFull(self._limit)
        loop = asyncio.get_running_loop()
        job = Job(inputs, rows, deadline, budget, loop.create_future(), params)
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), _expire, job)
        self.waiting += 1
        self._jobs.put(job)
        try:
            return await job.future
        finally:
            timer.cancel()
            self.waiting -= 1

    def pull(self, rows: int, delay: float) -> list[Job] | None:
        """Wait for a job, then take what is there, up to `rows` rows; None when the queue has ended.

        Args:
            rows: rows to stop at.
            delay: seconds to wait for more once there is one.
        """
        first = self._jobs.get()
        if first is None:
            return None
        pulled, count = [first], first.rows
        until = time.monotonic() + delay if delay else 0.0
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
