"""One connection to another server: a request goes out as bytes, and its whole answer comes back.

A general client's machinery (aiohttp's is four times this one's CPU) would be most of what a relayed request costs
(ADR 26). Nothing is decompressed, followed or interpreted here.
"""

import asyncio
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

import httptools

from modelramp_server.exchange import Body, Header
from modelramp_server.one_write import write_together

_HEAD_LIMIT = 64 * 1024


class Broken(Exception):
    """The connection ended before the answer did, or what came is no HTTP answer."""


class TooLong(Exception):
    """The answer is over the limit."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is; `base` is what its paths begin with."""

    host: str
    port: int
    tls: bool
    base: str

    @classmethod
    def of(cls, url: str) -> "Endpoint":
        """Of an http or https address.

        Raises:
            ValueError: it is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http address")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def host_header(self) -> Header:
        """What a request to it must say."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.tls else 80)
        return b"host", (host if standard else f"{host}:{self.port}").encode("idna" if not host.isascii() else "ascii")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; names of headers in lower case."""

    status: int
    headers: list[Header]
    body: bytes


class Wire(asyncio.Protocol):
    """A connection, for one request at a time. `silent`: no byte has come since the last one was sent; `usable`: it may
    take another one; `closed`: it is over."""

    def __init__(self, born: float) -> None:
        self.born = born
        self.silent = True
        self.usable = True
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self._limit = 0
        self._clear()

    @classmethod
    async def connect(cls, endpoint: Endpoint, tls: SSLContext | None, born: float) -> "Wire":
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: cls(born), endpoint.host, endpoint.port, ssl=tls)
        return wire

    async def ask(self, head: bytes, body: Body, limit: int) -> Reply:
        """Send a request, and wait for its answer. Cancelled, the connection is closed: the answer may still come.

        Args:
            limit: bytes of the answer's body at most.

        Raises:
            Broken, TooLong
        """
        if self._transport is None or not self.usable:
            raise Broken
        self._waiting = asyncio.get_running_loop().create_future()
        self._limit, self.silent = limit, True
        self._clear()
        write_together(self._transport, head, body)
        try:
            return await self._waiting
        except BaseException:
            self.close()
            raise
        finally:
            self._waiting = None
            self._clear()

    def close(self) -> None:
        """Drop the connection."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Called by the event loop."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.usable = False
        if self._ends_with_the_connection and exc is None:
            self._answered()
        else:
            self._fail(Broken())
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.silent = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(Broken())
        if self._waiting is None or not self._waiting.done():
            self._look(len(data))
        elif not self.usable and self._transport is not None:
            self._transport.close()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._waiting is None or self._waiting.done():  # nobody has asked
            self.usable = False
        self._clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._status = self._parser.get_status_code()
        names = dict(self._headers)
        length = names.get(b"content-length")
        self._expected = int(length) if length is not None and length.isdigit() else 0
        self._ends_with_the_connection = length is None and b"transfer-encoding" not in names and self._status >= 200

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._parts.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._status < 200:  # 100 Continue: the answer is still to come
            return
        self.usable = self.usable and self._parser.should_keep_alive()
        self._answered()

    def _clear(self) -> None:
        self._status = self._size = self._expected = self._head = 0
        self._headers: list[Header] = []
        self._parts: list[bytes] = []
        self._ends_with_the_connection = False

    def _look(self, size: int) -> None:
        """Whether what comes is within bounds."""
        if self._waiting is None:
            self.close()
        elif max(self._size, self._expected) > self._limit:
            self._fail(TooLong())
        elif not self._status:
            self._head += size
            if self._head > _HEAD_LIMIT:
                self._fail(Broken())

    def _answered(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            if self._size > self._limit:
                return self._fail(TooLong())
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._waiting.set_result(Reply(self._status, self._headers, body))

    def _fail(self, error: Exception) -> None:
        self.usable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
