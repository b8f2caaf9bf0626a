"""The body of a large request, read from the socket into one piece of memory. By way of the parser it comes in hundreds
of parts, each copied three times: for an image of 600 KB a good part of what a small network takes to look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

LARGE = 64 * 1024  # bytes that are still to come


class LargeBody(asyncio.BufferedProtocol):
    """Stands in for a connection until the body is whole; whatever else happens to that is passed on."""

    def __init__(self, length: int, begun: bytes, whole: Callable[[bytes], None], connection: asyncio.Protocol) -> None:
        """
        Args:
            length: bytes of the body.
            begun: what has come of it.
            whole: told the body.
        """
        self._body = np.empty(length, np.uint8).data
        self._body[: len(begun)] = begun
        self._rest = self._body[len(begun) :]
        self._whole = whole
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the transport: where to put what comes. Never what belongs to the next request."""
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the transport."""
        self._rest = self._rest[nbytes:]
        if not self._rest:
            self._whole(bytes(self._body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._connection.resume_writing()
