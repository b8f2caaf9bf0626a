"""Asking a pod of its model: right answers, strange ones, somebody else's, and none at all."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelramp.adapters import prober
from modelramp.adapters.kube_api import KubeApi
from modelramp.adapters.pod_http import DirectFetch, ProxyFetch
from modelramp.adapters.prober import PodProber
from modelramp.domain.findings import Inference, Tensor
from modelramp.domain.world import Pod
from modelramp.ports import ProbeError
from tests.unit.test_scraper import kubeconfig

POD = Pod("p", "3f2a9c01", ip="127.0.0.1")
MODEL = "bone cracks"
BODY = {"inputs": [[1.0]]}
PROXIED = "/api/v1/namespaces/shop/pods/p:8080/proxy"
Answer = Callable[[web.Request], web.StreamResponse]


def inferred(body: Any = None, status: int = 200, revision: str = POD.revision) -> web.Response:
    headers = {"x-modelramp-revision": revision, "server-timing": "service;dur=12.500"}
    return web.json_response(body or {"predictions": [1]}, status=status, headers=headers)


@asynccontextmanager
async def asking(answer: Answer, folder: Path | None = None) -> AsyncIterator[PodProber]:
    """A prober of a pod that answers so, directly; or with a folder for a kubeconfig, through the API server."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        if folder is None:
            async with DirectFetch(port) as fetch:
                yield PodProber(fetch)
        else:
            api = await KubeApi.connect(kubeconfig(folder, f"http://127.0.0.1:{port}"))
            yield PodProber(ProxyFetch(api))
            await api.close()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("proxied", [False, True])
async def test_a_model_is_asked_by_name_marked_as_smoke_and_within_a_budget(proxied: bool, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    sent: dict[str, Any] = {}

    def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, request.raw_path))
        if request.path.endswith("/invocations"):
            sent.update({"headers": request.headers, "length": request.content_length})
            return inferred()
        if request.path.endswith("/example"):
            return web.json_response(BODY)
        return web.json_response({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]})

    async with asking(answer, tmp_path if proxied else None) as prober:
        assert await prober.inputs("shop", POD, MODEL) == (Tensor("x", "FP32", (-1, 64)),)
        assert await prober.example("shop", POD, MODEL) == BODY
        assert await prober.infer("shop", POD, BODY, 30.0) == Inference(200, {"predictions": [1]}, 0.0125)
    root = PROXIED if proxied else ""
    assert asked == [
        ("GET", f"{root}/v2/models/bone%20cracks"),
        ("GET", f"{root}/v2/models/bone%20cracks/example"),
        ("POST", f"{root}/invocations"),
    ]
    assert sent["headers"]["x-modelramp-relayed"] == "smoke"
    assert sent["headers"]["x-request-timeout"] == "30"
    assert sent["headers"]["content-type"] == "application/json"
    assert sent["length"] == len(json.dumps(BODY))


async def test_a_models_failure_is_an_answer() -> None:
    async with asking(lambda _: inferred({"error": "boom"}, 500)) as prober:
        assert await prober.infer("shop", POD, BODY, 1.0) == Inference(500, {"error": "boom"}, 0.0125)


async def test_a_model_without_an_example_has_none() -> None:
    async with asking(lambda _: web.json_response({"error": "logged without"}, status=404)) as prober:
        assert await prober.example("shop", POD, MODEL) is None


async def test_a_number_of_a_thousand_digits_is_not_finite() -> None:
    body = b'{"predictions": [1' + b"0" * 1000 + b"]}"
    headers = {"x-modelramp-revision": POD.revision}
    async with asking(lambda _: web.Response(body=body, headers=headers)) as prober:
        assert await prober.infer("shop", POD, BODY, 1.0) == Inference(200, {"predictions": [float("inf")]}, 0.0)


def redirect(request: web.Request) -> web.StreamResponse:
    if request.query:
        return inferred()
    return web.Response(status=302, headers={"location": f"{request.path}?followed"})


STRANGE: dict[str, Answer] = {
    "no such pod": lambda _: web.json_response({"kind": "Status", "message": 'pods "p" not found'}, status=404),
    "another pod": lambda _: inferred(revision="aaaaaaaa"),
    "nobody": lambda _: web.Response(status=502, text="bad gateway"),
    "elsewhere": redirect,
    "too much": lambda _: web.Response(body=b" " * (1 << 20) + b"{}", headers={"x-modelramp-revision": POD.revision}),
    "nested": lambda _: web.Response(body=b'{"inputs": ' + b"[" * 100_000, status=200),
}


@pytest.mark.parametrize("answer", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("proxied", [False, True])
async def test_what_is_not_the_pods_own_answer_is_none(answer: Answer, proxied: bool, tmp_path: Path) -> None:
    async with asking(answer, tmp_path if proxied else None) as prober:
        with pytest.raises(ProbeError):
            await prober.infer("shop", POD, BODY, 5.0)
        if answer is not STRANGE["another pod"]:
            with pytest.raises(ProbeError):
                await prober.example("shop", POD, MODEL)
        with pytest.raises(ProbeError):
            await prober.inputs("shop", POD, MODEL)


async def test_a_pod_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "GRACE", 0.1)
    given_up = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await given_up.wait()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        async with DirectFetch(server.sockets[0].getsockname()[1]) as fetch:
            with pytest.raises(ProbeError, match="no answer to POST /invocations within"):
                await PodProber(fetch).infer("shop", POD, BODY, 0.1)
        given_up.set()
        await asyncio.sleep(0)


@pytest.mark.parametrize("pod", [Pod("p", "3f2a9c01"), Pod("p", "3f2a9c01", ip="127.0.0.2")])
async def test_a_pod_that_is_not_there_is_told(pod: Pod) -> None:
    async with DirectFetch(9) as fetch:
        with pytest.raises(ProbeError, match=r"no address yet|Cannot connect"):
            await PodProber(fetch).example("shop", pod, MODEL)
