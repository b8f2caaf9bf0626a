"""Watches over HTTP: long lines, ends, silence; and none of them keeps a request waiting."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelramp.adapters import kube_api
from modelramp.adapters.kube_api import KubeApi
from modelramp.ports import ClusterError

EVENT = {"type": "ADDED", "object": {"metadata": {"name": "a"}, "data": "x" * 300_000}}
WATCHES = 150


@asynccontextmanager
async def connected(tmp_path: Path, last: bytes = b"") -> AsyncIterator[KubeApi]:
    """To a server whose watches tell one event and then stay open, or end with ``last``."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"items": []})
        if request.path == "/forbidden":
            return web.json_response({"message": "watch is forbidden"}, status=403)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps(EVENT).encode() + b"\n" + last)
        if not last:
            await asyncio.Event().wait()
        return response

    application = web.Application()
    application.router.add_get("/{any}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(kubeconfig_of(f"http://127.0.0.1:{port}")))
    api = await KubeApi.connect(kubeconfig)
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


def kubeconfig_of(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": server}}],
        "users": [{"name": "it", "user": {}}],
    }


async def test_events_come_whole_until_the_server_ends_the_watch(tmp_path: Path) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}
    async with connected(tmp_path, json.dumps(bookmark).encode() + b"\n") as api:
        assert [event async for event in api.watch("/pods")] == [EVENT, bookmark]


async def test_a_watch_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    async with connected(tmp_path, b'{"type": "ADD') as api:
        with pytest.raises(ClusterError, match="WATCH /pods"):
            [event async for event in api.watch("/pods")]


async def test_a_silent_watch_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_api, "WATCH_SILENCE", 0.05)
    async with connected(tmp_path) as api:
        with pytest.raises(ClusterError, match="WATCH /pods"):
            [event async for event in api.watch("/pods")]


async def test_a_watch_that_is_refused_says_why(tmp_path: Path) -> None:
    async with connected(tmp_path) as api:
        with pytest.raises(ClusterError, match="403: watch is forbidden"):
            [event async for event in api.watch("/forbidden")]


async def test_a_request_does_not_wait_for_watches(tmp_path: Path) -> None:
    async with connected(tmp_path) as api, asyncio.timeout(20):
        watches = [api.watch("/pods") for _ in range(WATCHES)]
        await asyncio.gather(*(anext(watch) for watch in watches))
        assert await api.read("/services") == {"items": []}
        for watch in watches:
            await watch.aclose()  # type: ignore[attr-defined]
