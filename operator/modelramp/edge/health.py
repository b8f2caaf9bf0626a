"""What the kubelet and Prometheus ask of the operator's own process, on one port.

``/healthz``: does it still work. ``/readyz``: could it lead. One that waits for another's Lease is ready, or an update
of the Deployment would never end; one that cannot reach its Lease is not, so that an update does not end the last that
can. ``/metrics``: numbers.
"""

from collections.abc import Callable

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from modelramp.edge.metrics import Metrics

STUCK_SECONDS = 60.0
WATCH_SECONDS = 120.0
POLLS = 5  # intervals without a sign of life of the registries' poller
POLL_SECONDS = 60.0  # and what its calls may take on top


class Vitals:
    """Tells whether each part of the process still moves."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._parts: list[tuple[Callable[[], float], float, str]] = []
        self._ready: Callable[[], bool] = lambda: False

    def ready_when(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def require(self, silence: Callable[[], float], limit: float, sentence: str) -> None:
        """Unhealthy while ``silence()`` is above ``limit``. The sentence has a place for the seconds: {:.0f}."""
        self._parts.append((silence, limit, sentence))

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._exposition)
        return application

    async def _healthz(self, _: web.Request) -> web.Response:
        measured = [(silence(), limit, sentence) for silence, limit, sentence in self._parts]
        stuck = [sentence.format(seconds) for seconds, limit, sentence in measured if seconds > limit]
        if stuck:
            return web.Response(status=503, text="\n".join([*stuck, ""]))
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if not self._ready():
            return web.Response(
                status=503, text="not in the election of a leader yet; the log says what it waits for\n"
            )
        return web.Response(text="ok\n")

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def serve(application: web.Application, host: str, port: int) -> web.AppRunner:
    """Starts to listen; ``await runner.cleanup()`` ends it. Raises OSError if the port is taken."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
