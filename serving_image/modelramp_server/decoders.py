"""The threads that read what would hold the event loop up: images, and large bodies of any kind. What waits for them
is bounded, as in the queue before the model: a request that could not be answered in its time is refused at once."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modelramp_server.batching.jobs import LEFT
from modelramp_server.exchange import InferenceRequest
from modelramp_server.protocol.errors import ClientLeft, OutOfTime, QueueFull, QueueSlow

Result = TypeVar("Result")

_SHARE = 0.5  # of a request's time: what waiting to be read may take; the model needs the rest
_NEWEST = 0.1  # what the last call weighs in the mean


class Decoders:
    """`workers` threads; `limit` requests may wait for them."""

    def __init__(self, workers: int, limit: int) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
        self._workers = workers
        self._limit = limit
        self._seconds = 0.0
        self.waiting = 0

    async def run(self, request: InferenceRequest, before: Callable[[], None], call: Callable[[], Result]) -> Result:
        """Call on a thread, once it is the request's turn.

        Args:
            before: may still refuse, on the thread.

        Raises:
            QueueFull, QueueSlow: too many wait, or for too long.
            OutOfTime: the request's time was over when its turn came.
            ClientLeft: so had its client.
        """
        self._admit(request)

        def later() -> Result:
            before()
            if LEFT in request.client:
                raise ClientLeft
            if (began := time.monotonic()) >= request.deadline:
                raise OutOfTime(request.budget)
            try:
                return call()
            finally:
                self._seconds += _NEWEST * (time.monotonic() - began - self._seconds)

        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, later)
        finally:
            self.waiting -= 1

    def _admit(self, request: InferenceRequest) -> None:
        wait = self.waiting * self._seconds / self._workers
        if self.waiting >= self._limit:
            raise QueueFull(self._limit, max(1, math.ceil(wait)))
        if self.waiting >= self._workers and wait > _SHARE * (request.deadline - time.monotonic()):
            raise QueueSlow(wait, max(1, math.ceil(wait)))
