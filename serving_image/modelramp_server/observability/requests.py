"""Request ids for log lines and records, and the access log. Neither is there unless a setting asks for it."""

import logging
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

from modelramp_server.exchange import REQUEST_ID, Handler, Receive, Scope, Send
from modelramp_server.observability import context

LONGEST_ID = 128

access = logging.getLogger("modelramp_server.access")


def with_ids(app: Handler) -> Handler:
    """Keeps the client's `X-Request-ID`, or makes one, which then goes back to it and on to a candidate."""

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        if not given:
            given = uuid4().hex.encode()
            scope["headers"] = [*scope["headers"], (REQUEST_ID, given)]
        context.REQUEST_ID.set(_printable(given))
        context.CALLER.set("")
        await app(scope, receive, send)

    return named


def with_access_log(app: Handler, quiet: frozenset[str]) -> Handler:
    """A line for every request but those to the paths in `quiet`, which kubelets and scrapers ask all the time."""

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in quiet:
            return await app(scope, receive, send)
        status = 0
        started = time.monotonic()

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            _tell(scope, status, time.monotonic() - started)

    return logged


def _tell(scope: Scope, status: int, seconds: float) -> None:
    path = _printable(scope["raw_path"][:200])
    took = round(seconds * 1000, 3)
    fields = {"method": scope["method"], "path": path, "status": status, "duration_ms": took}
    caller = context.CALLER.get()
    if caller:
        fields["caller"] = caller
    text = "%s %s %d %.3f ms%s"
    access.info(text, scope["method"], path, status, took, f" {caller}" if caller else "", extra={"fields": fields})


def _printable(value: bytes) -> str:
    text = value[:LONGEST_ID].decode("latin-1")
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)
