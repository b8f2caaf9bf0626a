"""uvicorn, with the three things it lacks here: a lame duck on SIGTERM, leaving idle clients, JSON for broken HTTP."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelramp_server.app import App
from modelramp_server.exchange import Handler

if TYPE_CHECKING:
    from modelramp_server.security.tls import Certificate

KEEP_ALIVE = 65
# A connection in use is told to close with its next answer; closing it under a request on the wire would lose that.
IDLE = 1.0
SWEEP = 0.5

log = logging.getLogger(__name__)


class JsonErrorProtocol(HttpToolsProtocol):
    """Answers bytes that are no HTTP with `{"error": ...}`, as everything else is."""

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn's parser."""
        body = b'{"error": "the bytes received are no valid HTTP request"}'
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()


class HttpServer(uvicorn.Server):
    """Serves until SIGTERM, goes on accepting for `drain_delay` seconds, finishes what is in flight, returns."""

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        drain_delay: float,
        grace: float,
        on_start: Callable[[], None],
        handler: Handler,
        certificate: "Certificate | None",
        on_shutdown: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`handler` is what is called: the app, or what stands in front of it."""
        super().__init__(
            uvicorn.Config(
                handler,
                host=host,
                port=port,
                loop="uvloop",
                http=JsonErrorProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                server_header=False,
                log_config=None,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(grace)),
                backlog=2048,
                ssl_certfile=certificate.chain if certificate else None,
                ssl_keyfile=certificate.key if certificate else None,
            )
        )
        self._app = app
        self._drain_delay = drain_delay
        self._on_start = on_start
        self._on_shutdown = on_shutdown
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: Any = None) -> None:
        """Listen, then begin to load the model: liveness is answered at once."""
        await super().startup(sockets)
        if self.should_exit:
            return
        self._on_start()
        self._tasks.append(asyncio.create_task(self._send_idle_clients_away()))

    async def shutdown(self, sockets: Any = None) -> None:
        """Finish what is in flight, here and beside at once."""
        beside = [] if self._on_shutdown is None else [self._on_shutdown()]
        await asyncio.gather(super().shutdown(sockets), *beside)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: lame duck. Second one: at once."""
        if self._app.draining or sig == signal.SIGINT:
            self.should_exit = True
            return
        log.info("draining: not ready, answering for another %g s", self._drain_delay)
        self._app.draining = True
        asyncio.get_running_loop().call_later(self._drain_delay, self._exit)

    def _exit(self) -> None:
        self.should_exit = True

    async def _send_idle_clients_away(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            if self._app.closing:
                now = asyncio.get_running_loop().time()
                for connection in list(self.server_state.connections):
                    timer = getattr(connection, "timeout_keep_alive_task", None)
                    if timer is not None and now - (timer.when() - KEEP_ALIVE) >= IDLE:
                        connection.shutdown()
