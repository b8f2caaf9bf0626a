"""What the kubelet and Prometheus ask of the operator's own process, on one port.

``/healthz``: does it still work. ``/readyz``: could it lead. One that waits for another's Lease is ready, or an update
of the Deployment would never end; one that cannot reach its Lease is not, so that an update does not end the last that
can. ``/metrics``: numbers.
"""

import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from modelramp.engine.queue import Handler, WorkQueue
from modelramp.ports import Conflict, Key

STUCK_SECONDS = 60.0


class Vitals:
    """Counts passes, and tells whether one hangs."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._passes = Counter(
            "modelramp_reconcile_passes", "Passes over objects.", ["outcome"], registry=self._registry
        )
        self._seconds = Histogram("modelramp_reconcile_seconds", "Duration of a pass.", registry=self._registry)
        self._gauge("modelramp_queue_depth", "Objects that wait for a worker.", lambda: float(len(queue)))
        self._leading = Gauge("modelramp_leader", "1 while this process leads.", registry=self._registry)
        self._ready: Callable[[], bool] = lambda: False

    def ready_when(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def leads(self) -> None:
        self._leading.set(1)

    def counted(self, handler: Handler) -> Handler:
        """The same handler, with its passes counted and timed."""

        async def pass_over(key: Key) -> float | None:
            started, outcome = time.monotonic(), "error"
            try:
                again = await handler(key)
                outcome = "ok"
                return again
            except Conflict:
                outcome = "conflict"
                raise
            finally:
                self._passes.labels(outcome).inc()
                self._seconds.observe(time.monotonic() - started)

        return pass_over

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        return application

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(name, text, registry=self._registry).set_function(value)

    async def _healthz(self, _: web.Request) -> web.Response:
        seconds = self._queue.longest_running()
        if seconds > STUCK_SECONDS:
            return web.Response(status=503, text=f"a pass has been running for {seconds:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if not self._ready():
            return web.Response(
                status=503, text="not in the election of a leader yet; the log says what it waits for\n"
            )
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def serve(application: web.Application, host: str, port: int) -> web.AppRunner:
    """Starts to listen; ``await runner.cleanup()`` ends it. Raises OSError if the port is taken."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
