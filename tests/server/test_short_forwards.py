"""Who runs a model: the event loop where its forwards are short, its thread where they are not or prove not to be."""

import asyncio
import http.client
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server import serve
from modelramp_server.batching import short_forwards
from modelramp_server.batching.jobs import Job, JobQueue
from modelramp_server.batching.row_limit import RowLimit
from modelramp_server.batching.short_forwards import AT_ONCE, AWAY, IN_A_ROW, LONG, SHORT, OnTheLoop
from modelramp_server.batching.warm_model import WarmModel
from modelramp_server.protocol.tensors import Array
from tests.server.served import eventually, exchange
from tests.server.test_batching import UNOBSERVED, Doubling
from tests.server.test_lifecycle import INFER, Process, two


class Clocked:
    """A model of one input whose forwards take what a test says, by a clock of its own."""

    only_computes, device = True, "cpu"

    def __init__(self, seconds_per_row: float, cores: int = 2) -> None:
        self.now, self.takes = 100.0, 0.0
        self.model = Doubling()
        self.queue = JobQueue(100)
        limit = RowLimit(32, 1.0, 32 * seconds_per_row)
        warm = WarmModel(self, limit, self.queue, UNOBSERVED)  # type: ignore[arg-type]
        self.loop = OnTheLoop(warm, None, cores, lambda: self.now)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.now += self.takes
        return self.model.predict(inputs)

    def forward(self, takes: float) -> None:
        self.takes = takes
        self.loop.run([job(1)], more=False)


def job(rows: int, done: Any = lambda outputs, error: None) -> Job:
    return Job({"x": np.arange(rows)}, rows, time.monotonic() + 60, 60.0, done)


def test_a_forward_here_is_as_large_as_is_short() -> None:
    model = Clocked(seconds_per_row=0.0001)
    assert model.loop.rows([job(1), job(1)]) == 2, "so many rows of several requests take 0.2 ms"
    assert model.loop.rows([job(8)]) == 8, "one request's rows take a millisecond at most"
    assert model.loop.rows([job(11)]) == 0
    assert Clocked(seconds_per_row=SHORT / 2).loop.rows([job(1)]) == 1
    assert Clocked(seconds_per_row=SHORT / 2).loop.rows([job(1), job(1)]) == 0, (
        "the loop reads one, the thread runs one"
    )
    assert Clocked(seconds_per_row=SHORT / 2, cores=1).loop.rows([job(1), job(1)]) == 1
    assert Clocked(seconds_per_row=0.0).loop.rows([job(1)]) == 32, "what takes no time is limited as in the thread"


def test_a_model_that_is_not_short_any_more_goes_to_its_thread_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    model = Clocked(seconds_per_row=0.0001)
    for _ in range(IN_A_ROW - 1):
        model.forward(LONG * 1.1)
    model.forward(0.0)
    model.forward(LONG * 1.1)
    assert model.loop.rows([job(1)]), "a busy machine makes one slow now and then"
    for _ in range(IN_A_ROW - 1):
        model.forward(LONG * 1.1)
    assert not model.loop.rows([job(1)]) and "11 ms" in caplog.text
    model.now += AWAY
    assert model.loop.rows([job(1)])
    model.forward(AT_ONCE * 1.1)
    assert not model.loop.rows([job(1)])


def test_what_a_forward_waits_for_does_not_count_as_what_it_takes() -> None:
    class Waiting(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            time.sleep(0.05)
            return super().predict(inputs)

    queue = JobQueue(100)
    warm = WarmModel(Waiting(), RowLimit(32, 1.0, 0.001), queue, UNOBSERVED)
    warm.answer([job(1)], 1, True, lambda jobs: None)
    assert queue.seconds_per_row > 0.005, "a tenth of what it took, for whoever waits"
    assert warm.held_per_row < 0.001


@pytest.mark.parametrize(("computes", "device"), [(True, "cpu"), (False, "cpu"), (True, "cuda")])
def test_batches_of_what_computes_here_are_compared_by_what_they_compute(computes: bool, device: str) -> None:
    class Waiting(Doubling):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            time.sleep(0.05)
            return super().predict(inputs)

    class Noted(RowLimit):
        def observe(self, rows: int, seconds: float, cost: float, full: bool) -> None:
            assert seconds >= 0.05
            assert cost < 0.005 if computes and device == "cpu" else cost == seconds

    model = Waiting()
    model.only_computes, model.device = computes, device
    warm = WarmModel(model, Noted(32, 1.0, 0.001), JobQueue(100), UNOBSERVED)
    warm.answer([job(1)], 1, True, lambda jobs: None)


async def test_the_loop_has_its_turn_between_two_forwards() -> None:
    happened: list[object] = []

    class Notes:
        def rows(self, waiting: Any) -> int:
            return 2

        def run(self, jobs: list[Job], more: bool) -> None:
            happened.append((len(jobs), more))

    queue = JobQueue(100)
    queue.short = Notes()
    for _ in range(3):
        queue.submit(job(1, lambda outputs, error: happened.append("answered")))
    asyncio.get_running_loop().call_soon(happened.append, "read")
    for _ in range(4):
        await asyncio.sleep(0)
    assert happened == [(2, True), "answered", "answered", "read", (1, False), "answered"]
    assert queue.waiting == 0


async def test_all_goes_to_the_thread_until_that_has_answered() -> None:
    class Large:
        """Takes single rows only."""

        ran = 0

        def rows(self, waiting: Any) -> int:
            return int(waiting[0].rows == 1)

        def run(self, jobs: list[Job], more: bool) -> None:
            self.ran += len(jobs)

    queue, short = JobQueue(100), Large()
    queue.short = short
    for rows in (4, 1):
        queue.submit(job(rows))
    await asyncio.sleep(0)
    queue.submit(job(1))
    await asyncio.sleep(0)
    assert short.ran == 0, "the model is the thread's now"
    pulled = queue.pull(10, 0.0)
    assert pulled is not None and [one.rows for one in pulled] == [4, 1, 1]
    queue.settle(pulled)
    queue.submit(job(1))
    await asyncio.sleep(0)
    assert short.ran == 1 and queue.waiting == 0


@pytest.mark.parametrize("computes", [True, False])
def test_a_small_graph_runs_on_the_loop_what_may_wait_does_not(start, lookup_model, monkeypatch, computes) -> None:
    monkeypatch.setattr(short_forwards, "LONG", 60.0)  # however busy this machine is
    monkeypatch.setattr("modelramp_server.batching.model_thread.SHORT", 60.0)
    load, ran = serve._load, []

    def watched(*arguments: Any) -> Any:
        model, runtime = load(*arguments)
        predict = runtime.predict
        runtime.predict = lambda inputs: (ran.append(threading.current_thread()), predict(inputs))[1]
        runtime.only_computes = computes
        return model, runtime

    monkeypatch.setattr(serve, "_load", watched)
    server = start(lookup_model)
    queue = server.service._queue
    assert queue is not None
    queue.seconds_per_row = 0.0
    ran.clear()
    assert server.infer(two_tensor()).status == 200
    assert (ran[0] is server._thread) == computes and (ran[0].name == "model") != computes


def two_tensor() -> dict[str, Any]:
    return {"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}


HANGING = """
import sys, time
import modelramp_server.batching.model_thread as m
import modelramp_server.serve as s
from modelramp_server.cli import main
m.SHORT = 60.0
load = s._load
def hanging(*arguments):
    model, runtime = load(*arguments)
    predict = runtime.predict
    runtime.predict = lambda inputs: time.sleep(3600) if 7 in inputs["x"] else predict(inputs)
    return model, runtime
s._load = hanging
main()
"""


def test_a_forward_that_never_ends_on_the_loop_ends_the_process(
    lookup_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    running = Process(lookup_model, [sys.executable, str(script)], REQUEST_TIMEOUT="0.3")
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    try:
        eventually(lambda: running.ready() == 200)
        with pytest.raises((OSError, http.client.HTTPException)):
            exchange(connection, "POST", INFER, two(7))
        assert running.popen.wait(30) == 1
    finally:
        connection.close()
        running.popen.kill()
        running.popen.wait(10)
    said = capfd.readouterr().err
    assert "a forward has been running for" in said and "holds the event loop" in said
