"""What the kubelet is told of the operator: whether each part of it still moves."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from modelramp.adapters.cache import Cache
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import KubeApi
from modelramp.api.spec import ModelRef
from modelramp.edge.health import STUCK_SECONDS, Vitals
from modelramp.edge.metrics import Metrics
from modelramp.engine.echo import Echo
from modelramp.engine.queue import WorkQueue
from modelramp.engine.registries import Registries, RegistryConfig
from modelramp.ports import Conflict, Key, ModelVersion, RegisteredModel
from tests.unit.simulation import SPEC, SimulatedWorld
from tests.unit.test_queue import FakeTimers
from tests.unit.test_ready import kubeconfig

KEY = Key("shop", "digits")


async def test_a_pass_that_hangs_makes_the_process_unhealthy() -> None:
    timers = FakeTimers()
    queue = WorkQueue(timers)
    vitals = Vitals(Metrics(queue))
    vitals.require(queue.longest_running, STUCK_SECONDS, "a pass has been running for {:.0f} s")
    vitals.require(queue.oldest_waiting, 10.0, "a key has waited for {:.0f} s")
    async with TestClient(TestServer(vitals.application())) as client:
        queue.add(KEY)
        await queue.get()
        assert (await client.get("/healthz")).status == 200
        timers.advance(STUCK_SECONDS + 1)
        unwell = await client.get("/healthz")
        assert (unwell.status, await unwell.text()) == (503, "a pass has been running for 61 s\n")
        queue.done(KEY)
        queue.add(KEY)
        timers.advance(5)
        queue.add(Key("shop", "other"))
        timers.advance(6)
        assert await (await client.get("/healthz")).text() == "a key has waited for 11 s\n"
        queue.done(await queue.get())
        timers.advance(5)
        assert await (await client.get("/healthz")).text() == "a key has waited for 11 s\n"
        await queue.get()
        assert (await client.get("/healthz")).status == 200


async def test_a_process_is_ready_when_it_takes_part_in_the_election() -> None:
    vitals = Vitals(Metrics(WorkQueue(FakeTimers())))
    async with TestClient(TestServer(vitals.application())) as client:
        assert (await client.get("/readyz")).status == 503
        for takes_part, status in ((True, 200), (False, 503)):
            vitals.ready_when(lambda answer=takes_part: answer)
            assert (await client.get("/readyz")).status == status


class HangingRegistry:
    async def search(self) -> Sequence[RegisteredModel]:
        await asyncio.Event().wait()
        return []

    async def version(self, name: str, version: int) -> ModelVersion | None:
        return None


async def test_a_poller_that_hangs_is_silent_and_one_with_nothing_to_do_is_not() -> None:
    world = SimulatedWorld(SPEC)
    registries = Registries({"r": RegistryConfig("http://r")}, {"r": HangingRegistry()}, world, lambda _: None)
    poller = asyncio.create_task(registries.run(15.0))
    world.time += 100
    registries.nudge("r")
    for _ in range(5):
        await asyncio.sleep(0)
    assert registries.silence() == 0
    registries.resolve(KEY, ModelRef(name="digits", alias="prod", registry="r"))
    for _ in range(5):
        await asyncio.sleep(0)
    world.time += 200
    assert registries.silence() == 200
    poller.cancel()


def test_a_status_that_the_watch_does_not_show_is_silence() -> None:
    world = SimulatedWorld(SPEC)
    echo = Echo(world)
    echo.expect(KEY)
    world.time += 30
    echo.expect(KEY)
    echo.expect(Key("shop", "other"))
    world.time += 1
    assert echo.silence() == 31
    echo.heard(KEY)
    assert echo.silence() == 1
    echo.heard(Key("shop", "other"))
    assert echo.silence() == 0


async def test_what_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    async def get(request: web.Request) -> web.Response:
        if "watch" in request.query:
            await asyncio.Event().wait()
        if "labelSelector" in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        return web.json_response({"message": "not found"}, status=404)

    world = SimulatedWorld(SPEC)
    echo = Echo(world)
    echo.expect(KEY)
    world.time += 10
    application = web.Application()
    application.router.add_get("/{path:.*}", get)
    async with TestServer(application) as server:
        api = await KubeApi.connect(kubeconfig(tmp_path, str(server.make_url(""))))
        cache = Cache(api, [], lambda _: None)
        copying = asyncio.create_task(cache.run())
        assert (await KubeCluster(api, cache, world, lambda: None, echo).observe(KEY)).owner is None
        copying.cancel()
        await asyncio.wait([copying])
        await api.close()
    assert echo.silence() == 0


@pytest.mark.parametrize(("answer", "silence"), [("8", 10), ("7", 0), (None, 0)])
async def test_only_a_write_that_changed_something_is_to_come_back(
    tmp_path: Path, answer: str | None, silence: float
) -> None:
    async def put(request: web.Request) -> web.Response:
        if answer is None:
            return web.json_response({"message": "changed"}, status=409)
        return web.json_response({"metadata": {"resourceVersion": answer}})

    world = SimulatedWorld(SPEC)
    echo = Echo(world)
    application = web.Application()
    application.router.add_put("/{path:.*}", put)
    async with TestServer(application) as server:
        api = await KubeApi.connect(kubeconfig(tmp_path, str(server.make_url(""))))
        writes: list[tuple[str, str]] = []
        api.count_writes(lambda *what: writes.append(what))
        owner: dict[str, Any] = {"metadata": {"namespace": "shop", "name": "digits", "resourceVersion": "7"}}
        try:
            cache = Cache(api, [], lambda _: None)
            await KubeCluster(api, cache, world, lambda: None, echo).write_status(owner, {})
        except Conflict:
            assert answer is None
        await api.close()
    world.time += 10
    assert echo.silence() == silence
    assert writes == [("update", "modeldeployments/status")]
