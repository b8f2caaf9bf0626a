"""Bodies of large requests, each read from the socket into one piece of memory. By way of the parser a body comes in
hundreds of parts, each copied three times: for an image of 600 KB a good part of what a small network takes to look at
it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from modelramp_server.exchange import Body

LARGE = 64 * 1024  # bytes that are still to come
ALIGNED = 16  # bytes: what memory for arrays is aligned to, and enough for any number
_NONE = memoryview(b"")


class Reader(Protocol):
    """A connection, as it is told of its large bodies, and of whatever else happens to it meanwhile."""

    def large_body_whole(self, body: Body) -> None:
        """The body of the request under way: read-only memory where it has raw numbers, else bytes."""

    def begins_again(self) -> bool:
        """A request comes whose head is the last one's, byte for byte; whether its body is to be read here."""

    def goes_on(self, data: bytes = b"") -> None:
        """What comes is to be read by the connection itself, from these bytes on."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As of asyncio.Protocol, like the others."""

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class LargeBodies(asyncio.BufferedProtocol):
    """Stands in for a connection until a body is whole; and, where the head of its request is known, for as long as
    requests with that head follow. Memory for a body is made when its head has come, and kept by who is told of it."""

    def __init__(
        self, connection: Reader, length: int, raw_from: int | None, begun: Iterable[Body], head: bytes
    ) -> None:
        """
        Args:
            length: bytes of a body.
            raw_from: where raw numbers begin in it; they are aligned in memory, to be used where they lie.
            begun: what has come of the first body.
            head: of the request; b"" where it is not known.
        """
        self._connection = connection
        self._length = length
        self._raw_from = raw_from
        self._head = head
        self._first = memoryview(bytearray(len(head)))  # bytes of the next request
        self._body = self._rest = self._memory()
        for part in begun:
            self._rest[: len(part)] = part
            self._rest = self._rest[len(part) :]

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the transport: where to put what comes, of a body or a head, and never of what is behind it."""
        return self._rest or self._first

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the transport."""
        if not self._rest:
            return self._begins(bytes(self._first[:nbytes]))
        self._rest = self._rest[nbytes:]
        if not self._rest:
            body, self._body, self._rest = self._body, _NONE, _NONE
            if not self._head:
                self._connection.goes_on()
            self._connection.large_body_whole(bytes(body) if self._raw_from is None else body.toreadonly())

    def _begins(self, come: bytes) -> None:
        if come == self._head and self._connection.begins_again():
            self._body = self._rest = self._memory()
        else:
            self._connection.goes_on(come)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._connection.resume_writing()

    def _memory(self) -> memoryview:
        skew = -(self._raw_from or 0) % ALIGNED
        return np.empty(skew + self._length, np.uint8).data[skew:]
