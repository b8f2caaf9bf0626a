"""What waits to be decoded is bounded, has its time, and is not decoded for nobody."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelramp_server.batching.jobs import LEFT
from modelramp_server.decoders import Decoders
from modelramp_server.exchange import InferenceRequest
from modelramp_server.protocol.errors import ClientLeft, OutOfTime, QueueFull, QueueSlow, ServingError, ShortOfMemory

Task = asyncio.Task[Any]


def request(budget: float = 60.0) -> InferenceRequest:
    return InferenceRequest("predict", "/predict", [], b"", None, time.monotonic(), budget)


class Busy:
    """One thread that is held until `let_go` is set; what else is asked waits behind that."""

    def __init__(self, limit: int = 10) -> None:
        self.decoders = Decoders(1, limit)
        self.let_go = threading.Event()
        self.decoded: list[int] = []

    def hold(self) -> Task:
        """Occupies the thread."""
        return self.ask(request(), 0)

    def ask(self, asked: InferenceRequest, number: int, before: Any = lambda: None) -> Task:
        """A further request."""

        def decode() -> int:
            if not number:
                assert self.let_go.wait(20)
            self.decoded.append(number)
            return number

        return asyncio.get_running_loop().create_task(self.decoders.run(asked, before, decode))


@pytest.fixture
async def busy() -> AsyncIterator[Busy]:
    busy = Busy()
    yield busy
    busy.let_go.set()


async def started(busy: Busy, waiting: int) -> None:
    await asyncio.sleep(0)
    assert busy.decoders.waiting == waiting


async def refusal(task: Task) -> type[ServingError]:
    with pytest.raises(ServingError) as refused:
        await task
    return refused.type


async def test_each_gets_its_own(busy: Busy) -> None:
    tasks = [busy.hold(), *(busy.ask(request(), number) for number in range(1, 6))]
    await started(busy, 6)
    busy.let_go.set()
    assert await asyncio.gather(*tasks) == busy.decoded == list(range(6))
    assert busy.decoders.waiting == 0


async def test_whoever_has_gone_or_has_no_time_left_is_passed_over(busy: Busy) -> None:
    first, gone, late = busy.hold(), request(), request()
    tasks = [busy.ask(gone, 1), busy.ask(late, 2), busy.ask(request(), 3)]
    await started(busy, 4)
    gone.client[LEFT] = True
    late.budget = 0.0
    busy.let_go.set()
    assert [await refusal(tasks[0]), await refusal(tasks[1])] == [ClientLeft, OutOfTime]
    assert [await first, await tasks[2]] == busy.decoded == [0, 3]


async def test_too_many_are_refused_at_once(busy: Busy) -> None:
    busy.decoders._limit = 2
    tasks = [busy.hold(), busy.ask(request(), 1)]
    await started(busy, 2)
    assert await refusal(busy.ask(request(), 2)) is QueueFull
    busy.let_go.set()
    assert await asyncio.gather(*tasks) == [0, 1]


async def test_what_would_wait_too_long_is_refused_at_once(busy: Busy) -> None:
    first = busy.hold()
    await started(busy, 1)
    busy.decoders._seconds = 3.0
    assert await refusal(busy.ask(request(budget=5), 1)) is QueueSlow
    patient = busy.ask(request(budget=50), 2)
    await started(busy, 2)
    busy.let_go.set()
    assert [await first, await patient] == [0, 2]
    assert 0 < busy.decoders._seconds < 3, "it learns how long they take"


async def test_memory_may_refuse_when_its_turn_has_come(busy: Busy) -> None:
    def short() -> None:
        raise ShortOfMemory(1, 1)

    busy.let_go.set()
    assert await refusal(busy.ask(request(), 1, short)) is ShortOfMemory
    assert not busy.decoded
