"""Batching never changes, mixes up or loses an answer."""

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelramp_server import serve
from modelramp_server.batching import forward
from modelramp_server.batching.forward import concatenated, groups, run
from modelramp_server.batching.jobs import Job, JobQueue
from modelramp_server.batching.warm_model import Observer
from modelramp_server.batching.warmup import warm_up
from modelramp_server.protocol.errors import ModelFailed, OutOfTime, QueueFull
from modelramp_server.protocol.outputs import Records
from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.rate_limit import RateLimit
from modelramp_server.runtime.base import WarmupFailed
from tests.server import models
from tests.server.served import Served, eventually

UNOBSERVED = Observer(lambda rows: None, lambda jobs, now: None)


class Doubling:
    """y = 2x; raises on negative rows; records the sizes of its forwards."""

    name = "test"
    device = "cpu"
    fallback = ""
    named_outputs = True
    only_computes = at_once = False
    inputs = (TensorSpec("x", "INT64", (-1,)),)
    outputs = (TensorSpec("y", "INT64", (-1,)),)

    def __init__(self) -> None:
        self.forwards: list[int] = []

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        x = inputs["x"]
        self.forwards.append(len(x))
        if (x < 0).any():
            raise ValueError("negative")
        return {"y": x * 2}


class Scaling(Doubling):
    """y = x * factor, where the factor is a param; 2 by default."""

    def predict_with(self, inputs: Mapping[str, Array], params: Mapping[str, Any]) -> dict[str, Array]:
        self.forwards.append(len(inputs["x"]))
        return {"y": inputs["x"] * params["factor"]}


def job(values: Array, deadline: float = 1e12, params: bytes = b"") -> Job:
    return Job({"x": values}, len(values), deadline, 1.0, lambda outputs, error: None, params)


async def test_requests_with_other_params_share_no_forward() -> None:
    model = Scaling()
    params = [b"", b'{"factor":3}', b"", b'{"factor":5}', b'{"factor":3}']
    jobs = [job(np.array([index]), params=each) for index, each in enumerate(params)]
    for group in groups(jobs, 32):
        run(model, group, lambda rows: None)
    assert [one.outputs["y"].tolist() for one in jobs] == [[0], [3], [4], [15], [12]]
    assert sorted(model.forwards) == [1, 2, 2]


async def test_params_are_nothing_to_a_model_that_takes_none() -> None:
    one = job(np.array([4]), params=b'{"factor":3}')
    run(Doubling(), [one], lambda rows: None)
    assert one.outputs["y"].tolist() == [8]


@given(st.lists(st.lists(st.integers(-1, 9), min_size=1, max_size=6), max_size=12), st.integers(1, 8))
@settings(deadline=None)
def test_every_job_gets_its_own_rows_and_only_bad_ones_fail(requests: list[list[int]], limit: int) -> None:
    async def check() -> None:
        model = Doubling()
        jobs = [job(np.array(values, dtype=np.int64 if len(values) % 2 else np.int32)) for values in requests]
        formed = groups(jobs, limit)
        assert {id(one) for group in formed for one in group} == {id(one) for one in jobs}
        for group in formed:
            assert len({one.key for one in group}) == 1
            assert len(group) == 1 or sum(one.rows for one in group) <= limit
            run(model, group, lambda rows: None)
        for values, one in zip(requests, jobs, strict=True):
            if min(values) < 0:
                assert isinstance(one.error, ModelFailed) and "negative" in one.error.message
            else:
                assert one.error is None and one.outputs["y"].tolist() == [value * 2 for value in values]

    asyncio.run(check())


def test_the_type_of_a_models_exception_is_told_and_its_traceback_logged_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            raise KeyError("foo") if inputs["x"][0] else ValueError

    clock = [0.0]
    monkeypatch.setattr(forward, "_traces", RateLimit(1.0, 1.0, lambda: clock[0]))
    jobs = [job(np.array([1])) for _ in range(1000)]
    for one in jobs:
        run(Forgetful(), [one], lambda rows: None)
    assert {one.error.message for one in jobs} == {"the model failed on this input: KeyError: 'foo'"}
    assert len(caplog.records) == 1 and 'raise KeyError("foo")' in caplog.text
    other = job(np.array([0]))
    run(Forgetful(), [other], lambda rows: None)
    assert other.error.message == "the model failed on this input: ValueError" and len(caplog.records) == 2
    clock[0] = 1.0
    run(Forgetful(), jobs[:1], lambda rows: None)
    assert len(caplog.records) == 3


async def test_a_model_that_answers_other_rows_than_it_was_given_runs_singly() -> None:
    class Summing(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {"y": inputs["x"].sum(keepdims=True)}

    jobs = [job(np.array([1, 2])), job(np.array([3, 4]))]
    run(Summing(), jobs, lambda rows: None)
    assert [one.outputs["y"].tolist() for one in jobs] == [[3], [7]]


async def test_frames_are_records_where_they_are_batched_and_run_row_by_row_too() -> None:
    parts: list[dict[str, Any]] = [Records(y=np.array([1.0])), Records(y=np.array([2.0]))]
    assert type(concatenated(parts)) is Records

    class Framed(Doubling):
        def predict(self, inputs: Any) -> dict[str, Any]:
            return Records(super().predict(inputs))

    jobs = [job(np.array([1])), job(np.array([2]))]
    run(Framed(), jobs, lambda rows: None)
    assert [type(one.outputs) for one in jobs] == [Records, Records]


async def test_a_job_whose_time_is_up_never_reaches_the_model() -> None:
    model = Doubling()
    late, fine = job(np.array([1]), deadline=time.monotonic() - 1), job(np.array([2]))
    run(model, [late, fine], lambda rows: None)
    assert isinstance(late.error, OutOfTime)
    assert fine.outputs["y"].tolist() == [4] and model.forwards == [1]


async def test_the_queue_is_bounded_and_the_deadline_holds_while_the_model_is_stuck() -> None:
    queue = JobQueue(limit=1)
    inputs = {"x": np.array([1])}
    with pytest.raises(OutOfTime):
        await queue.answer(inputs, 1, time.monotonic() + 0.01, 0.01)
    with pytest.raises(QueueFull):
        await queue.answer(inputs, 1, time.monotonic() + 10, 10)


@pytest.mark.parametrize("told", ["its own answer", "that its time is up"])
async def test_a_request_that_is_cancelled_as_it_is_told_costs_its_mates_nothing(told: str) -> None:
    queue, inputs = JobQueue(limit=10), {"x": np.array([1])}
    asked = [asyncio.create_task(queue.answer(inputs, 1, time.monotonic() + 60, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    jobs = queue.pull(3, 0.0) or []
    for each, one in enumerate(jobs):
        one.outputs = {"y": np.array([each])}
    jobs[0].error = OutOfTime(60) if told == "that its time is up" else None
    asked[0].cancel()
    queue.settle(jobs)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer["y"].tolist() for answer in answers[1:] if isinstance(answer, dict)] == [[1], [2]]
    assert (queue.waiting, queue._rows, queue._away) == (0, 0, 0)


async def test_a_fault_in_telling_one_request_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    queue, told = JobQueue(limit=10), []

    def tell(outputs: dict[str, Array], error: Any) -> None:
        told.append(error)
        if len(told) == 1:
            raise KeyError("a bug")

    for _ in range(3):
        queue.submit(Job({"x": np.array([1])}, 1, time.monotonic() + 60, 60, tell))
    await asyncio.sleep(0)
    queue.settle(queue.pull(3, 0.0) or [])
    assert told == [None] * 3 and "a bug" in caplog.text
    assert (queue.waiting, queue._rows, queue._away) == (0, 0, 0)


def test_pulling_stops_at_the_rows_and_at_the_end() -> None:
    async def check() -> None:
        queue = JobQueue(limit=10)
        for size in (2, 2, 2):
            queue._jobs.put(job(np.zeros(size, dtype=np.int64)))
        assert [one.rows for one in queue.pull(4, 0.0) or []] == [2, 2]
        queue.end()
        assert [one.rows for one in queue.pull(4, 0.0) or []] == [2]
        assert queue.pull(4, 0.0) is None

    asyncio.run(check())


def test_warm_up_allows_batches_only_where_they_change_nothing() -> None:
    class AcrossRows(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {"y": inputs["x"] - inputs["x"].max()}

    class StaticBatch(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if len(inputs["x"]) > 1:
                raise ValueError("static batch of 1")
            return super().predict(inputs)

    class OneRow(Doubling):
        inputs = (TensorSpec("x", "INT64", (1,)),)

    class Small(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if len(inputs["x"]) > 9:
                raise MemoryError
            return super().predict(inputs)

    assert warm_up(Doubling(), None, 1, 16).rows == 16
    assert warm_up(Small(), None, 1, 32).rows == 8
    for model in (AcrossRows(), StaticBatch(), OneRow()):
        assert warm_up(model, None, 1, 16)[0] == 1


def test_a_model_that_fails_on_everything_fails_its_warm_up() -> None:
    class Broken(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            raise ValueError("no such table")

    with pytest.raises(WarmupFailed, match="no such table"):
        warm_up(Broken(), None, 1, 4)


def test_the_logged_example_warms_up_a_model_that_fails_on_made_up_input(tmp_path: Path) -> None:
    class FromSeven(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if (inputs["x"] < 7).any():
                raise ValueError("7 or more")
            return super().predict(inputs)

    example = tmp_path / "input_example.json"
    example.write_text(json.dumps([7, 8]))
    assert warm_up(FromSeven(), example, 2, 4).rows == 4
    example.write_text(json.dumps([7, 7]))
    assert warm_up(FromSeven(), example, 2, 4).rows == 1, "rows that are all alike prove nothing of batches"


async def test_answers_under_concurrency_are_never_mixed_and_failures_stay_alone(lookup_server: Served) -> None:
    url = f"http://127.0.0.1:{lookup_server.port}/v2/models/digits/infer"
    random = np.random.default_rng(7)

    async def ask(session: aiohttp.ClientSession, values: list[int]) -> None:
        tensor = {"name": "x", "datatype": "INT64", "shape": [len(values)], "data": values}
        async with session.post(url, json={"inputs": [tensor]}) as response:
            answer = await response.json()
            if max(values) > 9:
                assert response.status == 500 and "model failed" in answer["error"]
            else:
                assert answer["outputs"][0]["data"] == [value * 10 for value in values]

    before = lookup_server.metric("modelramp_batch_rows_count")
    async with aiohttp.ClientSession() as session:
        requests = [random.integers(0, 11, random.integers(1, 4)).tolist() for _ in range(600)]
        await asyncio.gather(*(ask(session, values) for values in requests))
    forwards = lookup_server.metric("modelramp_batch_rows_count") - before
    assert forwards < len(requests) + sum(max(values) > 9 for values in requests) * 32


def test_requests_that_wait_together_run_together(start, lookup_model, monkeypatch) -> None:
    go_on, model = threading.Event(), Doubling()
    started = threading.Event()

    class Gated(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if inputs["x"][0] == 5:
                started.set()
                go_on.wait(30)
            return model.predict(inputs)

    read = serve._load
    monkeypatch.setattr(serve, "_load", lambda *arguments: (read(*arguments)[0], Gated()))
    server = start(lookup_model, queue_limit=9)
    model.forwards.clear()

    def ask(value: int) -> None:
        reply = server.infer({"name": "x", "datatype": "INT64", "shape": [1], "data": [value]})
        assert reply.json["outputs"][0]["data"] == [value * 2]

    threads = [threading.Thread(target=ask, args=(5,))]
    threads[0].start()
    assert started.wait(30)
    threads += [threading.Thread(target=ask, args=(value,)) for value in range(10, 18)]
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: server.metric("modelramp_queue_depth") == 8)
    full = server.infer({"name": "x", "datatype": "INT64", "shape": [1], "data": [1]})
    assert (full.status, full.headers["retry-after"]) == (503, "1")
    short = server.infer({"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}, x_request_timeout="0.05")
    assert short.status == 503
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert model.forwards == [1, 8]


def test_a_request_over_its_own_budget_gets_504(start, lookup_model, monkeypatch) -> None:
    go_on = threading.Event()

    class Stuck(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if inputs["x"][0] == 5:
                go_on.wait(30)
            return super().predict(inputs)

    read = serve._load
    monkeypatch.setattr(serve, "_load", lambda *arguments: (read(*arguments)[0], Stuck()))
    server = start(lookup_model)
    reply = server.infer({"name": "x", "datatype": "INT64", "shape": [1], "data": [5]}, x_request_timeout="0.05")
    go_on.set()
    assert reply.status == 504 and "0.05 s" in reply.json["error"]


def test_a_batch_waits_for_more_only_as_long_as_all_of_its_requests_have(start, lookup_model) -> None:
    server = start(lookup_model, batch_delay=10)
    queue = server.service._queue
    replies = []

    def ask(value: int, seconds: str) -> None:
        tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [value]}
        replies.append(server.infer(tensor, x_request_timeout=seconds))

    first = threading.Thread(target=ask, args=(3, "30"))
    first.start()
    eventually(lambda: queue.waiting == 1 and not queue.depth())
    ask(4, "3")
    first.join(30)
    assert [reply.status for reply in replies] == [200, 200]
    assert sorted(reply.json["outputs"][0]["data"][0] for reply in replies) == [30.0, 40.0]


def test_a_served_model_that_normalises_across_rows_is_not_batched(start, tmp_path) -> None:
    server = start(models.onnx_folder(tmp_path / "model", models.across_rows()))
    loaded = server.service.local.model
    assert loaded is not None and loaded.batch_rows == 1
