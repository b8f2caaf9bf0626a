"""One stand-in process answers at the addresses of all the pods: metrics that follow their splits, and metadata."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic

from aiohttp import web

from modelramp.adapters.kube_api import KubeApi
from modelramp.adapters.pod_http import PORT
from modelramp.desired.meta import NAME_LABEL, REVISION_LABEL, SPLIT_ANNOTATION
from modelramp.domain.world import Pod, PodMetrics
from modelramp.ports import Object
from tests.integration.stand_in_metrics import StandInMetrics, VirtualClock

REQUESTS_PER_SECOND = 200.0  # of each pod, none of them bad
WATCH_AGAIN = 1.0
METADATA = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}], "outputs": []}


class RealClock(VirtualClock):
    """The stand-in's clock, on the machine's."""

    def __init__(self) -> None:
        super().__init__(start=datetime.now(UTC))
        self._began = monotonic()

    def monotonic(self) -> float:
        return monotonic() - self._began


class Pods:
    """Knows the pods by a watch, and tells them apart by the address that was asked."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._metrics = StandInMetrics(RealClock(), rps=REQUESTS_PER_SECOND)
        self._pods: dict[str, tuple[str, Pod]] = {}  # by address, with their namespaces
        self.asked = 0

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_get("/metrics", self._told)
        application.router.add_get("/v2/models/{model}", self._metadata)
        application.router.add_get("/v2/models/{model}/example", self._example)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", PORT, backlog=1024).start()
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await runner.cleanup()

    async def _told(self, request: web.Request) -> web.Response:
        self.asked += 1
        transport = request.transport
        address = transport.get_extra_info("sockname")[0] if transport else ""
        if address not in self._pods:
            return web.Response(status=404)
        namespace, pod = self._pods[address]
        (counted,) = (await self._metrics.read(namespace, [pod])).values()
        return web.Response(text=exposition(counted))

    async def _metadata(self, request: web.Request) -> web.Response:
        return web.json_response({"name": request.match_info["model"], **METADATA})

    async def _example(self, _: web.Request) -> web.Response:
        return web.json_response({"error": "the model was logged without an input example"}, status=404)

    async def _watch(self) -> None:
        while True:
            async for event in self._api.watch("/api/v1/pods", {"labelSelector": NAME_LABEL}):
                self._seen(event["type"], event["object"])
            await asyncio.sleep(WATCH_AGAIN)

    def _seen(self, event: str, body: Object) -> None:
        metadata, address = body["metadata"], body.get("status", {}).get("podIP")
        if event in ("ADDED", "MODIFIED") and address:
            split = metadata.get("annotations", {}).get(SPLIT_ANNOTATION, "")
            self._pods[address] = (
                metadata["namespace"],
                Pod(metadata["name"], metadata["labels"][REVISION_LABEL], split=split),
            )


def exposition(counted: PodMetrics) -> str:
    """As a serving pod would say it (docs/contract.md, "Metrics")."""
    lines = [
        f"process_start_time_seconds {counted.started}",
        f"modelramp_traffic_generation {counted.generation}",
        f"modelramp_traffic_weight {counted.weight}",
        f"modelramp_bad_window_seconds {counted.bad_seconds}",
        f"modelramp_bad_window_sum {counted.bad_sum}",
        f"modelramp_bad_window_squares {counted.bad_squares}",
        f"modelramp_failed_window_sum {counted.failed_sum}",
        f"modelramp_failed_window_squares {counted.failed_squares}",
    ]
    for salt, counts in counted.splits.items():
        for side in ("stable", "candidate"):
            for outcome in ("ok", "bad"):
                labels = f"side={json.dumps(side)},salt={json.dumps(salt)},outcome={json.dumps(outcome)}"
                value = getattr(counts, f"{side}_{outcome}")
                lines.append(f"modelramp_split_requests_total{{{labels}}} {value}")
    return "\n".join([*lines, ""])
