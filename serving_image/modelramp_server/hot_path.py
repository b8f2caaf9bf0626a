"""Inference without a task for each request: from the last byte of a request to the model, and from there to one write.

What a framework does for a request, and the ASGI of a bare uvicorn too, takes longer than a small model (ADR 26). So
where nothing stands in front of the app (no keys, traces, records), its connections bring inference here, and ASGI
keeps the rest. What takes long (a candidate, images, large or compressed JSON) becomes a task as everywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from modelramp_server.batching.jobs import LEFT, Job, JobQueue, Outputs
from modelramp_server.dialects import Decoded
from modelramp_server.exchange import (
    RELAYED,
    REQUEST_ID,
    Answer,
    Body,
    Header,
    InferenceRequest,
    error_answer,
    request_of,
)
from modelramp_server.local_model import LocalModel, failure_answer
from modelramp_server.observability.metrics import Metrics
from modelramp_server.protocol.compression import SMALLEST
from modelramp_server.protocol.errors import ServingError
from modelramp_server.relay.traffic import Dealt, Traffic

_KEPT = 4096  # bytes of a body that has been answered


class Client(Protocol):
    """A connection, as it is written to."""

    def respond(self, exchange: Exchange, answer: Answer) -> None:
        """Send the answer, and take the next request."""


class HotPath:
    """Inference requests of all connections. `underway` counts those that are not answered yet."""

    def __init__(
        self,
        local: LocalModel,
        queue: JobQueue | None,
        traffic: Traffic,
        metrics: Metrics,
        routes: dict[str, tuple[str, bool]],
        payload_limit: int,
        timeout: float,
        closing: Callable[[], bool],
    ) -> None:
        """
        Args:
            queue: of the model in this process; None where another one runs it.
            routes: by path, the route, and whether its requests may be relayed.
            payload_limit: bytes of a body at most.
            timeout: seconds that a request may take.
            closing: whether answers end their client's connection.
        """
        self.closing = closing
        self.underway = 0
        self.local = local
        self.queue = queue
        self.traffic = traffic
        self.metrics = metrics
        self._routes = {path.encode(): (path, *route) for path, route in routes.items()}
        self._payload_limit = payload_limit
        self.timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, client: Client, path: bytes, headers: list[Header]) -> Exchange | None:
        """An exchange that is to be told its body; None for what is ASGI's: it finds the same fault and says so."""
        route = self._routes.get(path)
        if route is None or self.local.memory.shedding:
            return None
        found = dict(headers)
        length = found.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in found:
            return None
        try:
            request = request_of(found, headers, route[0], route[1], self._payload_limit, self.timeout, {})
        except ServingError:
            return None
        self.underway += 1
        relayed = RELAYED in found
        return Exchange(
            self, client, request, int(length), found.get(REQUEST_ID, b""), relayed, route[2] and not relayed
        )

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with an exchange in a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Exchange:
    """One request and its answer. To its connection it is what uvicorn's own exchange would be, as far as that looks:
    the attributes in the second block are uvicorn's names."""

    __slots__ = (
        *("_client", "_dealt", "_decoded", "_id", "_path", "_relayable", "_relayed", "length", "parts", "request"),
        *("disconnected", "keep_alive", "message_event", "more_body", "response_complete", "response_started"),
    )

    def __init__(
        self,
        path: HotPath,
        client: Client,
        request: InferenceRequest,
        length: int,
        identity: bytes,
        relayed: bool,
        relayable: bool,
    ) -> None:
        self._path = path
        self._id = identity
        self._client = client
        self._relayed = relayed
        self._relayable = relayable
        self._dealt: Dealt | None = None
        self._decoded: Decoded | None = None
        self.request = request
        self.length = length
        self.parts: list[bytes] = []
        self.disconnected = self.response_started = self.response_complete = False
        self.keep_alive = self.more_body = True
        self.message_event = _NOBODY_WAITS

    def left(self) -> int:
        """Bytes of the body that are still to come."""
        return self.length - sum(map(len, self.parts)) if self.more_body else 0

    def again(self) -> Exchange | None:
        """Another request with the same head; None for what is ASGI's."""
        path = self._path
        if path.local.memory.shedding:
            return None
        path.underway += 1
        return Exchange(path, self._client, self.request.again(), self.length, self._id, self._relayed, self._relayable)

    def begin(self, body: Body | None = None) -> None:
        """The body is whole: this, or what has come in parts."""
        request, path, parts = self.request, self._path, self.parts
        request.whole = time.monotonic()
        request.body = body if body is not None else parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        try:
            dealt = self._dealt = path.traffic.deal(request) if self._relayable else None
            if path.queue is None or (dealt is not None and dealt.candidates) or not path.local.decodes_here(request):
                return path.background(self._in_a_task())
            decoded = self._decoded = path.local.decode(request)
            path.queue.submit(
                Job(
                    decoded.inputs, decoded.rows, request.deadline, request.budget, self._done, decoded.params,
                    request.client,
                )
            )  # fmt: skip
        except Exception as error:
            self._own(failure_answer(error))

    def give_up(self) -> None:
        """The body has not come in time."""
        self.more_body = self.keep_alive = False
        self._own(error_answer(ServingError(408, f"the body did not arrive within {self._path.timeout:g} s")))

    def abandon(self) -> None:
        """The client has gone: nothing need be computed."""
        self.request.client[LEFT] = True
        if self.more_body and not self.response_complete:  # nobody will call `begin`
            self._over()

    def _done(self, outputs: Outputs, error: ServingError | None) -> None:
        path, request, decoded = self._path, self.request, self._decoded
        assert decoded is not None
        try:
            if error is not None:
                return self._own(error_answer(error))
            if not path.local.encodes_here(request, decoded, outputs):
                return path.background(self._encoded(outputs))
            self._own(path.local.encode(request, decoded, outputs))
        except Exception as failure:
            self._own(failure_answer(failure))

    async def _encoded(self, outputs: Outputs) -> None:
        assert self._decoded is not None
        try:
            answer = await self._path.local.encoded_beside(self.request, self._decoded, outputs)
        except Exception as failure:
            answer = failure_answer(failure)
        self._own(answer)

    async def _in_a_task(self) -> None:
        try:
            answer = await self._path.traffic.answer_dealt(self.request, self._dealt, not self._relayed)
        except Exception as failure:
            answer = failure_answer(failure)
        self._answered(answer)

    def _own(self, answer: Answer) -> None:
        """This pod's answer."""
        path = self._path
        path.local.signed(self.request, answer)
        path.traffic.own(self.request, answer, self._dealt, not self._relayed)
        self._answered(answer)

    def _answered(self, answer: Answer) -> None:
        if self.request.accepts and len(answer.body) >= SMALLEST:
            return self._path.background(self._compressed(answer))
        self._send(answer)

    async def _compressed(self, answer: Answer) -> None:
        self._send(await self._path.local.encoded(answer, self.request))

    def _send(self, answer: Answer) -> None:
        request = self.request
        answer.identify(self._id)
        self._over()
        if not self.disconnected:
            self._client.respond(self, answer)
        metrics = self._path.metrics
        if answer.rejected:
            metrics.rejected(answer.rejected)
        if not self._relayed:
            metrics.answered(request.route, answer.status, time.monotonic() - request.arrived)

    def _over(self) -> None:
        """The connection keeps this for its head. (The shadower may hold the request.)"""
        self._path.underway -= 1
        self.response_complete = True
        self._decoded = None
        if len(self.request.body) > _KEPT:
            self.request = self.request.again()


class _Nobody:
    """In the place of an event that uvicorn sets."""

    def set(self) -> None:
        """Nobody waits for it."""


_NOBODY_WAITS = _Nobody()
