"""uvicorn, with what it lacks here: a lame duck on SIGTERM, leaving idle clients, an end to slow ones."""

import asyncio
import logging
import math
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from modelramp_server.app import App
from modelramp_server.connection import Connection
from modelramp_server.exchange import Handler
from modelramp_server.hot_path import HotPath
from modelramp_server.slow_clients import SlowClients

if TYPE_CHECKING:
    from modelramp_server.security.tls import Certificate

KEEP_ALIVE = 65
# A connection in use is told to close with its next answer; closing it under a request on the wire would lose that.
IDLE = 1.0
SWEEP = 0.5
# What a body may come with: twice of it, for small chunks, and a megabyte that comes before anyone has looked.
_CHUNKS, _AHEAD = 2, 1024 * 1024

log = logging.getLogger(__name__)


class HttpServer(uvicorn.Server):
    """Serves until SIGTERM, goes on accepting for `drain_delay` seconds, finishes what is in flight, returns."""

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        drain_delay: float,
        timeout: float,
        payload_limit: int,
        on_start: Callable[[], None],
        handler: Handler,
        certificate: "Certificate | None",
        hot_path: HotPath | None = None,
        on_shutdown: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            drain_delay: seconds of accepting on after SIGTERM.
            timeout: seconds that a request in flight has then, and a client for a head or for taking an answer.
            payload_limit: bytes of a body at most.
            handler: what is called: the app, or what stands in front of it.
            certificate: None serves plain HTTP.
            hot_path: takes inference before ASGI does.
            on_shutdown: what is to be stopped with it.
        """
        limit = _CHUNKS * payload_limit + _AHEAD
        connection: Any = partial(Connection, request_limit=limit, hot_path=hot_path)
        super().__init__(
            uvicorn.Config(
                handler,
                host=host,
                port=port,
                loop="uvloop",
                http=connection,
                ws="none",
                lifespan="off",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                log_config=None,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=math.ceil(timeout),
                backlog=2048,
                ssl_certfile=certificate.chain if certificate else None,
                ssl_keyfile=certificate.key if certificate else None,
            )
        )
        self._app = app
        self._drain_delay = drain_delay
        self._on_start = on_start
        self._on_shutdown = on_shutdown
        self._slow_clients = SlowClients(timeout)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def address(self) -> str:
        """Where it is reached from this machine, once it listens."""
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"{'https' if self.config.is_ssl else 'http'}://{name}:{port}"

    async def startup(self, sockets: Any = None) -> None:
        """Listen, then begin to load the model: liveness is answered at once."""
        await super().startup(sockets)
        if self.should_exit:
            return
        self._on_start()
        self._tasks.append(asyncio.create_task(self._look_at_clients()))

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

    async def _look_at_clients(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = asyncio.get_running_loop().time()
            connections: Any = list(self.server_state.connections)
            self._slow_clients.look(connections, now)
            patience = IDLE if self._app.closing else KEEP_ALIVE
            for connection in connections:
                if connection.idle_since is not None and now - connection.idle_since >= patience:
                    connection.shutdown()
