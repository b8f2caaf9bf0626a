"""How large batches get, how soon a request is refused, and whom a failure or a parting client costs what."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelramp_server.batching.forward import run
from modelramp_server.batching.jobs import LEFT, Job, JobQueue
from modelramp_server.batching.model_thread import BatchLimits, ModelThread
from modelramp_server.batching.row_limit import RowLimit
from modelramp_server.protocol.errors import ClientLeft, ModelFailed, OutOfTime, QueueFull, QueueSlow
from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.runtime.base import WarmupFailed
from modelramp_server.runtime.mlmodel import Signature
from tests.server.test_batching import UNOBSERVED

FINE, BAD, LEAVES, LATE = range(4)


class Tagging:
    """y = 3 x tag + 1. Rows are (tag, kind); it raises on BAD ones, and notes the rows of each forward."""

    name = "test"
    device = "cpu"
    fallback = ""
    named_outputs = True
    only_computes = at_once = False
    inputs = (TensorSpec("x", "INT64", (-1, 2)),)
    outputs: ClassVar[tuple[TensorSpec, ...]] = (TensorSpec("y", "INT64", (-1,)),)

    def __init__(self) -> None:
        self.forwards: list[list[int]] = []
        self.gate = threading.Event()

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = inputs["x"]
        self.forwards.append(rows[:, 0].tolist())
        if 1 << 40 in self.forwards[-1]:
            assert self.gate.wait(30)
        if (rows[:, 1] == BAD).any():
            raise ValueError("bad row")
        return {"y": rows[:, 0] * 3 + 1}


def tagged(tags: list[int], kind: int = FINE, dtype: Any = np.int64) -> dict[str, Array]:
    return {"x": np.array([[tag, kind] for tag in tags], dtype=dtype)}


def job(tags: list[int], kind: int = FINE, client: Mapping[str, Any] | None = None) -> Job:
    return Job(tagged(tags, kind), len(tags), 1e12, 1.0, lambda outputs, error: None, client=client or {})


class Watcher:
    """Waits for the model thread."""

    def __init__(self) -> None:
        self.is_ready = asyncio.Event()

    def ready(self, model: object) -> None:
        self.is_ready.set()

    def failed(self, problem: Exception) -> None:
        raise problem


async def started(model: Tagging, queue: JobQueue, rows: int) -> ModelThread:
    limits = BatchLimits(rows, 0.0, 1, 30.0)
    loaded: Callable[[], Any] = lambda: (SimpleNamespace(example=None, signature=Signature()), model)  # noqa: E731
    thread = ModelThread(loaded, queue, limits, UNOBSERVED, UNOBSERVED)
    watcher = Watcher()
    thread.start(asyncio.get_running_loop(), watcher)
    await watcher.is_ready.wait()
    return thread


REQUESTS = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([np.int64, np.int32]), st.integers(FINE, LATE)), max_size=40
)


@given(REQUESTS, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_whatever_waits_together_each_gets_the_answer_to_its_own_rows(requests: list[Any], limit: int) -> None:
    async def check() -> None:
        queue, model, tags = JobQueue(100), Tagging(), itertools.count(100)
        await started(model, queue, limit)
        queue.seconds_per_row = 0.0
        now = time.monotonic()
        gate = asyncio.create_task(queue.answer(tagged([1 << 40]), 1, now + 60, 60))
        own = [[next(tags) for _ in range(rows)] for rows, _, _ in requests]
        waiting = [
            asyncio.create_task(
                queue.answer(
                    tagged(mine, kind, dtype),
                    rows,
                    now + 60 if kind != LATE else now,
                    60,
                    client={LEFT: True} if kind == LEAVES else {},
                )
            )
            for mine, (rows, dtype, kind) in zip(own, requests, strict=True)
        ]
        await asyncio.sleep(0)
        model.gate.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        await gate
        queue.end()
        computed = {tag for forward in model.forwards for tag in forward}
        wrong = {BAD: ModelFailed, LEAVES: ClientLeft, LATE: (OutOfTime, QueueSlow)}
        for mine, (_, _, kind), answer in zip(own, requests, answers, strict=True):
            if kind == FINE:
                assert isinstance(answer, dict) and answer["y"].tolist() == [tag * 3 + 1 for tag in mine]
            else:
                assert isinstance(answer, wrong[kind])
                assert kind == BAD or not computed & set(mine), "nobody waits for these rows"
        assert queue.waiting == 0

    asyncio.run(check())


async def test_one_bad_request_among_32_costs_ten_forwards_more_and_not_its_mates() -> None:
    for bad in range(32):
        model = Tagging()
        jobs = [job([tag], BAD if tag == bad else FINE) for tag in range(32)]
        assert run(model, jobs, lambda rows: None) == 32
        assert [isinstance(one.error, ModelFailed) for one in jobs] == [tag == bad for tag in range(32)]
        assert all(one.error or one.outputs["y"].tolist() == [tag * 3 + 1] for tag, one in enumerate(jobs))
        assert len(model.forwards) == 11


async def test_a_model_that_exits_fails_its_request_only() -> None:
    class Exiting(Tagging):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if (inputs["x"][:, 1] == BAD).any():
                raise SystemExit(3)
            return super().predict(inputs)

    jobs = [job([1]), job([2], BAD)]
    run(Exiting(), jobs, lambda rows: None)
    assert isinstance(jobs[1].error, ModelFailed) and jobs[0].outputs["y"].tolist() == [4]


async def test_a_request_whose_client_has_left_is_not_computed() -> None:
    model, gone = Tagging(), job([1], client={LEFT: True})
    assert run(model, [gone, job([2])], lambda rows: None) == 1
    assert isinstance(gone.error, ClientLeft) and model.forwards == [[2]]


def test_the_largest_batch_is_the_smallest_that_is_as_fast() -> None:
    limit = RowLimit(32, longest=1.0, seconds=0.040)
    assert limit.rows == 32, "until it has been measured under load"
    serve(limit, lambda rows: 0.001 * max(rows, 8))  # from 8 rows on, twice the rows take twice the time
    assert limit.rows == 8
    serve(limit, lambda rows: 0.010)  # an accelerator that has become free: any number of rows in 10 ms
    assert limit.rows == 32
    serve(limit, lambda rows: 0.0003 + 0.001 * rows)  # a fixed part that two rows share, and four hardly show
    assert limit.rows == 2


def test_rows_that_gain_nothing_by_company_begin_alone() -> None:
    assert RowLimit(32, longest=1.0, seconds=0.032, costs={1: 0.001, 32: 0.001}).rows == 1
    assert RowLimit(32, longest=1.0, seconds=0.032, costs={1: 0.002, 32: 0.001}).rows == 32
    assert RowLimit(32, longest=1.0, seconds=0.032, costs={1: 0.0015, 32: 0.001}).rows == 1, "half as fast again"
    limit = RowLimit(32, longest=1.0, seconds=0.040, costs={1: 0.001, 32: 0.00125})
    serve(limit, lambda rows: 0.001 * max(rows, 8) / 8)  # once it serves, eight rows take no longer than one
    assert limit.rows >= 8


def test_forwards_over_a_share_of_the_budget_are_made_smaller() -> None:
    assert RowLimit(32, longest=1.0, seconds=5.0).rows == 4
    limit = RowLimit(32, longest=1.0, seconds=0.5)
    serve(limit, lambda rows: 0.2 + 0.2 * rows)
    assert limit.rows == 4
    assert RowLimit(1, longest=1.0, seconds=9.0).rows == 1
    limit = RowLimit(32, longest=1.0, seconds=0.5)
    limit.observe(30, 3.0, 3.0, full=False)
    assert limit.rows == 16, "at once, not after many slow ones"


def test_a_model_whose_batches_always_fail_is_soon_run_row_by_row() -> None:
    limit = RowLimit(32, longest=1.0, seconds=0.001)
    spent = serve(limit, lambda rows: 0.001 if rows == 1 else 0.001 * (2 * rows - 1))
    assert limit.rows == 1
    assert spent < 1.1 * 0.001, "seconds a row, at last: hardly above those of one row at a time"


def test_rows_of_few_requests_do_not_make_batches_small() -> None:
    limit = RowLimit(32, longest=1.0, seconds=0.001)
    for _ in range(1000):
        limit.observe(1, 0.0005, 0.0005, full=False)
    assert limit.rows == 32


def serve(limit: RowLimit, seconds: Callable[[int], float], pulls: int = 4000) -> float:
    """Full pulls of single rows; seconds a row of the last thousand."""
    spent = 0.0
    taken = 0
    for pull in range(pulls):
        rows = limit.next_pull()
        limit.observe(rows, seconds(rows), seconds(rows), full=True)
        if pull >= pulls - 1000:
            spent, taken = spent + seconds(rows), taken + rows
    return spent / taken


async def test_what_can_not_be_answered_in_its_time_is_refused_at_once() -> None:
    queue = JobQueue(limit=100)
    queue.seconds_per_row = 0.5
    now = time.monotonic()
    first = asyncio.create_task(queue.answer(tagged([1, 2]), 2, now + 0.4, 0.4))
    await asyncio.sleep(0)  # nothing waited: it is taken whatever the estimate says
    more = [asyncio.create_task(queue.answer(tagged([tag]), 1, now + 60, 60)) for tag in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(QueueSlow) as slow:
        await queue.answer(tagged([1]), 1, now + 5, 5)
    assert slow.value.retry_after == 5 and "about 5 s" in slow.value.message
    with pytest.raises(QueueSlow):
        queue.admit(1, now + 5)
    queue.admit(1, now + 60)
    for task in (first, *more):
        task.cancel()


async def test_a_full_queue_says_when_it_will_have_room() -> None:
    queue = JobQueue(limit=3)
    queue.seconds_per_row = 1.5
    tasks = [asyncio.create_task(queue.answer(tagged([tag]), 1, 1e9, 60)) for tag in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as full:
        queue.admit(1, 1e9)
    assert full.value.retry_after == 5
    for task in tasks:
        task.cancel()


async def test_a_delay_takes_half_of_the_time_that_is_left_at_most() -> None:
    class Empties:
        """A queue with one job, that notes how long it is waited for more."""

        waits: ClassVar[list[float]] = []
        given: Job | None = None

        def get(self, timeout: float) -> Job:
            if self.given is not first:
                self.given = first
                return first
            self.waits.append(timeout)
            raise Empty

    queue = JobQueue(10)
    queue._jobs = Empties()  # type: ignore[assignment]
    for left, delay, waited in ((8.0, 1000.0, 4.0), (1000.0, 3.0, 3.0)):
        first = job([1])
        first.deadline = time.monotonic() + left
        assert queue.pull(2, delay) == [first]
        assert waited - 1 < Empties.waits[-1] <= waited


async def test_the_queue_knows_how_fast_it_drains() -> None:
    class Slow(Tagging):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            threading.Event().wait(0.002)
            return super().predict(inputs)

    queue = JobQueue(1000)
    await started(Slow(), queue, 4)
    seeded = queue.seconds_per_row
    assert seeded > 0, "the warm-up tells it"
    queue.seconds_per_row = 0.0
    end = time.monotonic() + 60
    await asyncio.gather(*(queue.answer(tagged([tag]), 1, end, 60) for tag in range(100)))
    queue.end()
    assert queue.seconds_per_row >= 0.0005, "four rows take 2 ms or more"


async def test_a_model_that_cannot_be_described_is_given_up_not_waited_for() -> None:
    told: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    watcher = SimpleNamespace(ready=lambda model: told.cancel(), failed=told.set_result)
    limits = BatchLimits(1, 0.0, 1, 30.0)
    load: Callable[[], Any] = lambda: (SimpleNamespace(example=None, signature=None), Tagging())  # noqa: E731
    thread = ModelThread(load, JobQueue(1), limits, UNOBSERVED, UNOBSERVED)
    thread.start(asyncio.get_running_loop(), watcher)
    assert isinstance(await told, WarmupFailed)
