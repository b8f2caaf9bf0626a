"""uvicorn, with what it lacks here: a lame duck on SIGTERM, leaving idle clients, an end to slow ones, word of a client
that has gone, JSON for broken HTTP."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelramp_server.app import App
from modelramp_server.batching.jobs import LEFT
from modelramp_server.exchange import WHOLE, Handler
from modelramp_server.one_write import OneWrite
from modelramp_server.slow_clients import SlowClients

if TYPE_CHECKING:
    from modelramp_server.security.tls import Certificate

KEEP_ALIVE = 65
# A connection in use is told to close with its next answer; closing it under a request on the wire would lose that.
IDLE = 1.0
SWEEP = 0.5
HEAD_LIMIT = 64 * 1024
# What a body may come with: twice of it, for small chunks, and a megabyte that comes before anyone has looked.
_CHUNKS, _AHEAD = 2, 1024 * 1024

log = logging.getLogger(__name__)


class Connection(HttpToolsProtocol):
    """One client. What a request may make the server hold is bounded: its head here, its body by who reads it."""

    _receiving: tuple[object, bool] | None = None
    _received = 0

    def __init__(self, *arguments: Any, request_limit: int, **named: Any) -> None:
        """`request_limit`: bytes of a request at most, with whatever it says around its body."""
        super().__init__(*arguments, **named)
        self._request_limit = request_limit

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            self._count(len(data))

    def on_headers_complete(self) -> None:
        """Called by the parser. The exchange that uvicorn has made has not begun yet."""
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.__class__ = OneWrite

    def on_message_complete(self) -> None:
        """Called by the parser."""
        super().on_message_complete()
        if self.scope is not None:
            self.scope["state"][WHOLE] = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport. Nothing need be computed for the request under way."""
        if self.scope is not None:
            self.scope["state"][LEFT] = True
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn's parser: `{"error": ...}`, as everything else is."""
        self._refuse(b"400 Bad Request", b"the bytes received are no valid HTTP request")

    def waits_for(self) -> tuple[str, object] | None:
        """What the client owes (slow_clients.py): to take its answer, or a request's head."""
        if self.transport.get_write_buffer_size():
            return "answer", self.cycle
        if self._in_head() and self.timeout_keep_alive_task is None:
            return "head", self.cycle
        return None

    def give_up(self) -> None:
        """Tell a client that never ended its head; end the connection of one that does not read."""
        if self._received and self._in_head() and not self.transport.get_write_buffer_size():
            self._refuse(b"408 Request Timeout", b"the head of the request did not arrive in time")
        else:
            self.transport.abort()

    def _in_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _count(self, size: int) -> None:
        """Bytes of a request that has not all come: of its head, then of its body, even where nobody reads that."""
        cycle = self.cycle
        head = cycle is None or (cycle.response_complete and not cycle.more_body)
        if self._receiving != (cycle, head):
            self._receiving, self._received = (cycle, head), 0
        self._received += size
        if head and self._received > HEAD_LIMIT:
            self._refuse(b"431 Request Header Fields Too Large", b"the head of the request is over 64 KiB")
        elif self._received > self._request_limit and not self._is_refused():
            self.transport.abort()

    def _is_refused(self) -> bool:
        """Whether what comes is thrown away, for a moment (exchange.refuse)."""
        return self.cycle.response_started and not self.cycle.response_complete

    def _refuse(self, status: bytes, error: bytes) -> None:
        body = b'{"error": "%b"}' % error
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (status, len(body), body)
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
        timeout: float,
        payload_limit: int,
        on_start: Callable[[], None],
        handler: Handler,
        certificate: "Certificate | None",
        on_shutdown: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            drain_delay: seconds of accepting on after SIGTERM.
            timeout: seconds that a request in flight has then, and a client for a head or for taking an answer.
            payload_limit: bytes of a body at most.
            handler: what is called: the app, or what stands in front of it.
            certificate: None serves plain HTTP.
            on_shutdown: what is to be stopped with it.
        """
        connection: Any = partial(Connection, request_limit=_CHUNKS * payload_limit + _AHEAD)
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
                timeout_graceful_shutdown=max(1, round(timeout)),
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
            if self._app.closing:
                _send_idle_away(connections, now)


def _send_idle_away(connections: list[Connection], now: float) -> None:
    for connection in connections:
        timer = connection.timeout_keep_alive_task
        if timer is not None and now - (timer.when() - KEEP_ALIVE) >= IDLE:
            connection.shutdown()
