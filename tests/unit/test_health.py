"""What the kubelet and Prometheus are told of the operator."""

import pytest
from aiohttp.test_utils import TestClient, TestServer

from modelramp.edge.health import STUCK_SECONDS, Vitals
from modelramp.engine.queue import WorkQueue
from modelramp.ports import Conflict, Key
from tests.unit.test_queue import FakeTimers

KEY = Key("shop", "digits")


async def test_a_pass_that_hangs_makes_the_process_unhealthy() -> None:
    timers = FakeTimers()
    queue = WorkQueue(timers)
    async with TestClient(TestServer(Vitals(queue).application())) as client:
        queue.add(KEY)
        await queue.get()
        assert (await client.get("/healthz")).status == 200
        timers.advance(STUCK_SECONDS + 1)
        unwell = await client.get("/healthz")
        assert (unwell.status, await unwell.text()) == (503, "a pass has been running for 61 s\n")
        queue.done(KEY)
        assert (await client.get("/healthz")).status == 200


async def test_a_process_is_ready_when_it_takes_part_in_the_election() -> None:
    vitals = Vitals(WorkQueue(FakeTimers()))
    async with TestClient(TestServer(vitals.application())) as client:
        assert (await client.get("/readyz")).status == 503
        for takes_part, status in ((True, 200), (False, 503)):
            vitals.ready_when(lambda answer=takes_part: answer)
            assert (await client.get("/readyz")).status == status


async def test_passes_are_counted_by_outcome() -> None:
    queue = WorkQueue(FakeTimers())
    vitals = Vitals(queue)
    outcomes = iter([None, Conflict("changed"), ValueError("a bug")])

    async def handler(_: Key) -> float | None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return 5.0

    counted = vitals.counted(handler)
    assert await counted(KEY) == 5.0
    for error in (Conflict, ValueError):
        with pytest.raises(error):
            await counted(KEY)
    queue.add(KEY)
    vitals.leads()
    async with TestClient(TestServer(vitals.application())) as client:
        text = await (await client.get("/metrics")).text()
    for line in (
        'modelramp_reconcile_passes_total{outcome="ok"} 1.0',
        'modelramp_reconcile_passes_total{outcome="conflict"} 1.0',
        'modelramp_reconcile_passes_total{outcome="error"} 1.0',
        "modelramp_reconcile_seconds_count 3.0",
        "modelramp_queue_depth 1.0",
        "modelramp_leader 1.0",
    ):
        assert line in text
