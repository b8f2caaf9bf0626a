"""The body of a large request, read from the socket into one piece of memory. By way of the parser it comes in hundreds
of parts, each copied three times: for an image of 600 KB a good part of what a small network takes to look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import numpy as np

from modelramp_server.exchange import Body

LARGE = 64 * 1024  # bytes that are still to come
ALIGNED = 16  # bytes: what memory for arrays is aligned to, and enough for any number


class LargeBody(asyncio.BufferedProtocol):
    """Stands in for a connection until the body is whole; whatever else happens to that is passed on."""

    def __init__(
        self,
        length: int,
        begun: Iterable[Body],
        raw_from: int | None,
        whole: Callable[[Body], None],
        connection: asyncio.Protocol,
    ) -> None:
        """
        Args:
            length: bytes of the body.
            begun: what has come of it.
            raw_from: where raw numbers begin in it; they are aligned in memory, to be used where they lie.
            whole: told the body; where it has raw numbers, read-only memory, else bytes.
        """
        skew = -(raw_from or 0) % ALIGNED
        self._body = np.empty(skew + length, np.uint8).data[skew:]
        self._raw = raw_from is not None
        self._rest = self._body
        for part in begun:
            self._rest[: len(part)] = part
            self._rest = self._rest[len(part) :]
        self._whole = whole
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the transport: where to put what comes. Never what belongs to the next request."""
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the transport."""
        self._rest = self._rest[nbytes:]
        if not self._rest:
            self._whole(self._body.toreadonly() if self._raw else bytes(self._body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._connection.resume_writing()
