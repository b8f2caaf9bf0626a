"""A thread that is slower than the event loop gets help: the loop runs some of its jobs, one at a time. No answer is
lost for that, or given to another."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import numpy as np
import pytest

from modelramp_server.batching import short_forwards
from modelramp_server.batching.jobs import Job, JobQueue
from modelramp_server.batching.model_thread import ModelThread
from modelramp_server.batching.short_forwards import BEHIND
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.onnx import OnnxRuntime
from tests.server.served import Served
from tests.server.test_batching import Doubling
from tests.server.test_batching_limits import started


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelramp_server.batching.model_thread.whole_cpus", lambda: 2)


class Helper:
    """Has the thread run whatever comes, and helps it, or not."""

    def __init__(self, helps: bool = True) -> None:
        self.may = helps
        self.helped: list[int] = []

    def rows(self, waiting: Any) -> int:
        return 0

    def run(self, jobs: list[Job], more: bool) -> None:
        raise AssertionError("this is the thread's")

    def helps(self, behind: int) -> bool:
        return self.may and behind >= BEHIND

    def help(self, job: Job) -> None:
        self.helped.append(tag(job))


def job(value: int, rows: int = 1, done: Any = lambda outputs, error: None) -> Job:
    return Job({"x": np.full(rows, value)}, rows, time.monotonic() + 60, 60.0, done)


def tag(one: Job) -> int:
    return int(one.inputs["x"][0])


def queue_of(count: int, helper: Helper, rows: int = 1) -> JobQueue:
    queue = JobQueue(100)
    queue.short = helper
    for value in range(count):
        queue.submit(job(value, rows))
    return queue


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def left(queue: JobQueue) -> list[int]:
    return [tag(one) for one in queue.pull(100, 0.0) or ()]


async def test_the_loop_takes_what_has_waited_longest_until_the_thread_keeps_up() -> None:
    helper = Helper()
    queue = queue_of(BEHIND + 2, helper)
    await turns(30)
    assert helper.helped == [0, 1, 2]
    assert queue.waiting == BEHIND - 1 and left(queue) == list(range(3, BEHIND + 2))


async def test_one_at_a_time_and_what_came_meanwhile_first() -> None:
    helper = Helper()
    queue = queue_of(BEHIND + 5, helper)
    await turns(4)
    assert helper.helped == [0]
    queue.submit(job(99))
    await turns(1)
    assert helper.helped == [0], "it has something to do itself"
    await turns(30)
    assert helper.helped == list(range(7)) and left(queue)[-1] == 99


@pytest.mark.parametrize(("helps", "rows", "count"), [(False, 1, BEHIND), (True, 2, BEHIND), (True, 1, BEHIND - 1)])
async def test_no_help(helps: bool, rows: int, count: int) -> None:
    """Where it would hold the loop up, or is not needed."""
    helper = Helper(helps)
    queue = queue_of(count, helper, rows)
    await turns(30)
    assert helper.helped == [] and len(left(queue)) == count


async def test_who_has_been_told_is_told_nothing_more() -> None:
    told: list[object] = []
    over = asyncio.Event()
    helper = Helper(helps=False)
    queue = queue_of(0, helper)
    late = job(7, done=lambda outputs, error: (told.append(error), over.set()))
    late.deadline = 0.0
    queue.submit(late)
    await asyncio.wait_for(over.wait(), 30)
    helper.may = True
    for value in range(BEHIND):
        queue.submit(job(value))
    await turns(30)
    assert helper.helped == [7, 0] and len(told) == 1
    assert queue.waiting == BEHIND - 1


async def test_the_end_stays_the_thread_s() -> None:
    helper = Helper()
    queue = JobQueue(100)
    queue.short = helper
    queue.end()
    for value in range(BEHIND):
        queue.submit(job(value))
    await turns(30)
    assert len(left(queue)) == BEHIND - len(helper.helped)
    assert queue.pull(1, 0.0) is None


class AtOnce(Doubling):
    """Its thread and the loop wait until both are at it; notes who ran what."""

    only_computes = at_once = True

    def __init__(self) -> None:
        super().__init__()
        self.thread: list[int] = []
        self.loop: list[int] = []
        self.both = threading.Barrier(2)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        values = inputs["x"].tolist()
        ran = self.thread if threading.current_thread().name == "model" else self.loop
        if min(values) >= 1000:
            ran += values
            if len(ran) == len(values):  # its first forward
                self.both.wait(30)
        return {"y": inputs["x"] * 2}


async def test_each_gets_its_own_answer_whoever_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelramp_server.batching.model_thread.SHORT", 60.0)
    monkeypatch.setattr(short_forwards, "SHORT", 60.0)
    monkeypatch.setattr(short_forwards, "TOGETHER", -1.0)  # several are the thread's
    monkeypatch.setattr(short_forwards, "BEHIND", 2)
    queue, model = JobQueue(1000), AtOnce()
    await started(model, queue, 3)
    queue.seconds_per_row = 0.0
    until = time.monotonic() + 60
    values = range(1000, 1100)
    answers = await asyncio.gather(*(queue.answer({"x": np.array([value])}, 1, until, 60) for value in values))
    assert [answer["y"].tolist() for answer in answers] == [[value * 2] for value in values]
    assert sorted(model.loop + model.thread) == list(values)
    assert queue.waiting == 0 and queue._rows == 0 and queue._away == 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_only_what_may_run_twice_at_one_time_does(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelramp_server.batching.model_thread.SHORT", 60.0)
    model = AtOnce()
    model.at_once = at_once
    queue = JobQueue(10)
    await started(model, queue, 32)
    assert queue.short is not None and queue.short.helps(100) == at_once
    assert not queue.short.helps(2 * 32 - 1), "it takes them in one pull, nearly"
    assert not queue.short.helps(BEHIND - 1)


async def test_helping_ends_where_forwards_are_not_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelramp_server.batching.model_thread.SHORT", 60.0)
    monkeypatch.setattr(short_forwards, "LONG", -1.0)
    queue = JobQueue(10)
    await started(AtOnce(), queue, 1)
    assert queue.short is not None
    assert queue.short.helps(100)
    queue.short.help(job(1))
    assert not queue.short.helps(100)
    assert queue.short.rows([job(1)]) == 1, "a single one that took long says nothing about the rest"


async def test_a_forward_beside_that_never_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelramp_server.batching.model_thread.SHORT", 60.0)
    said: list[str] = []

    class Endless(AtOnce):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if 7 in inputs["x"]:
                monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 1000)
                said.append(thread.trouble())
            return super().predict(inputs)

    monkeypatch.setattr(ModelThread, "_look_at_the_loop", lambda self: None)  # it would end this process
    queue = JobQueue(10)
    thread: ModelThread = await started(Endless(), queue, 1)
    assert queue.short is not None
    queue.short.help(job(1))
    assert thread.trouble() == ""
    queue.short.help(job(7))
    assert len(said) == 1 and "a forward has been running for 1000 s" in said[0]
    assert thread.trouble() == ""


def test_a_served_graph_runs_on_both_and_each_forward_is_counted_once(
    start: Any, lookup_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = OnnxRuntime.predict

    def slower_on_its_thread(self: OnnxRuntime, inputs: Mapping[str, Array]) -> dict[str, Array]:
        ran.append(name := threading.current_thread().name)
        if name == "model":
            time.sleep(0.005)
        return run(self, inputs)

    monkeypatch.setattr(OnnxRuntime, "predict", slower_on_its_thread)
    monkeypatch.setattr("modelramp_server.batching.model_thread.SHORT", 60.0)
    monkeypatch.setattr(short_forwards, "SHORT", 60.0)
    monkeypatch.setattr(short_forwards, "LONG", 60.0)
    monkeypatch.setattr(short_forwards, "TOGETHER", -1.0)
    monkeypatch.setattr(short_forwards, "BEHIND", 1)
    server: Served = start(lookup_model, batch_size=1)
    ran.clear()
    before = [server.metric(f"modelramp_{name}_count") for name in ("batch_rows", "queue_wait_seconds")]

    async def load() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(ask(session, value % 10) for value in range(200)))

    async def ask(session: aiohttp.ClientSession, value: int) -> None:
        body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [value]}]}
        async with session.post(f"http://127.0.0.1:{server.port}/v2/models/digits/infer", json=body) as response:
            assert (await response.json())["outputs"][0]["data"] == [value * 10]

    asyncio.run(load())
    after = [server.metric(f"modelramp_{name}_count") for name in ("batch_rows", "queue_wait_seconds")]
    assert "model" in ran and len(set(ran)) == 2, set(ran)
    assert after[0] - before[0] == len(ran) == 200 and after[1] - before[1] == 200


@pytest.mark.parametrize(("whole", "threads", "helped"), [(2, 1, True), (1, 1, False), (2, 2, False)])
async def test_no_help_without_a_cpu_for_it(
    whole: int, threads: int, helped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelramp_server.batching.model_thread.SHORT", 60.0)
    monkeypatch.setattr("modelramp_server.batching.model_thread.whole_cpus", lambda: whole)
    monkeypatch.setattr("modelramp_server.batching.warmup.use_few_threads", lambda *given: threads)
    queue = JobQueue(10)
    await started(AtOnce(), queue, 1)
    assert queue.short is not None and queue.short.helps(100) == helped
