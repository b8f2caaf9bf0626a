"""One HTTP exchange over raw ASGI: read a bounded body, send an answer. What every route shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import orjson

from modelramp_server.prediction import Prediction
from modelramp_server.protocol.compression import accepted, deflate, encoding_of, inflate
from modelramp_server.protocol.errors import BadRequest, ServingError, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]
Body = bytes | memoryview

JSON: Header = (b"content-type", b"application/json")
CLOSE: Header = (b"connection", b"close")
RELAYED = b"x-modelramp-relayed"
PROTOBUF = b"application/x-protobuf"
REQUEST_ID = b"x-request-id"
HEADER_LENGTH = b"inference-header-content-length"
WHOLE = "whole"  # a key of the scope's state once all of the body has come
_TIMEOUT = b"x-request-timeout"
_LINGER = 1.0
# curl -d says form when it is told nothing; clients of raw tensors say octet-stream.
_JSON_TYPES = (b"application/json", b"application/octet-stream", b"application/x-www-form-urlencoded")


class Disconnected(Exception):
    """The client left before its request was whole; nobody is there to answer."""


@dataclass(slots=True)
class Answer:
    """Status, body and headers (without content-length); `service` is the service time in seconds, `prediction` what
    a model said, if it was a class, `rejected` why no model was asked, if none was."""

    status: int
    body: bytes
    headers: list[Header] = field(default_factory=lambda: [JSON])
    service: float = 0.0
    prediction: Prediction | None = None
    rejected: str = ""

    def identify(self, request_id: bytes) -> None:
        """Name the request, unless it has no name, or who answered has named it."""
        if request_id and all(name != REQUEST_ID for name, _ in self.headers):
            self.headers.append((REQUEST_ID, request_id))


class Translation(Protocol):
    """What a request that came by another protocol says in V2 REST, which is what the candidate is asked in."""

    def to_rest(self, request: InferenceRequest) -> InferenceRequest:
        """The same request."""

    def from_rest(self, answer: Answer) -> Answer:
        """The answer in the protocol of the request; raises ValueError where it can't be read."""


@dataclass(slots=True)
class InferenceRequest:
    """An inference request, whole, as it came. Times are of the monotonic clock, in seconds.

    `whole` is when all of it had come, 0 where that is when it arrived. `body` is memory where it is large and has raw
    numbers in it: to copy them takes longer than to use them.
    `content_type` is in lower case, without its parameters, b"" where the client names none; `encoding` is the coding
    that the body is in, `limit` the bytes that it may have without it; `accepts` is the coding to answer in; `client`
    has a key LEFT once it has gone.
    """

    route: str
    path: str
    headers: list[Header]
    body: Body
    header_length: int | None
    arrived: float
    budget: float
    content_type: bytes = b""
    encoding: bytes = b""
    accepts: bytes = b""
    limit: int = 0
    whole: float = 0.0
    translation: Translation | None = None
    client: MutableMapping[str, Any] = field(default_factory=dict)

    @property
    def deadline(self) -> float:
        """When the client's budget ends."""
        return self.arrived + self.budget

    def again(self) -> InferenceRequest:
        """Another one with the same head, which comes now."""
        return InferenceRequest(
            self.route, self.path, self.headers, b"", self.header_length, time.monotonic(), self.budget,
            self.content_type, self.encoding, self.accepts, self.limit,
        )  # fmt: skip

    def as_rest(self) -> InferenceRequest:
        """What the candidate is asked."""
        return self if self.translation is None else self.translation.to_rest(self)

    def read(self, answer: Answer) -> Answer:
        """The candidate's answer as the client wants it; raises ValueError where it can't be read."""
        return answer if self.translation is None else self.translation.from_rest(answer)


def check_json(content_type: bytes) -> None:
    """Refuse what is said to be anything but JSON; what is said to be nothing is JSON.

    Raises:
        ServingError: 415.
    """
    if content_type and content_type not in _JSON_TYPES and not content_type.endswith(b"+json"):
        kind = content_type.decode("latin-1")
        raise ServingError(415, f"content-type {kind!r} is not served here; send application/json")


def plain(request: InferenceRequest) -> InferenceRequest:
    """The request with its body decompressed.

    Raises:
        ServingError: 400 or 413.
    """
    if not request.encoding:
        return request
    return replace(request, body=inflate(request.body, request.encoding, request.limit), encoding=b"")


def compressed(answer: Answer, encoding: bytes) -> Answer:
    """A copy of the answer in that coding."""
    headers = [*answer.headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding")]
    return replace(answer, body=deflate(answer.body, encoding), headers=headers)


def json_answer(status: int, document: object) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, orjson.dumps(document))


def error_answer(error: ServingError) -> Answer:
    """`{"error": "..."}` with the error's status."""
    answer = json_answer(error.status, {"error": error.message})
    answer.rejected = error.reason
    if error.retry_after is not None:
        answer.headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.allow:
        answer.headers.append((b"allow", error.allow.encode()))
    return answer


def request_of(
    found: Mapping[bytes, bytes],
    headers: list[Header],
    path: str,
    route: str,
    payload_limit: int,
    timeout: float,
    client: MutableMapping[str, Any],
) -> InferenceRequest:
    """An inference request by its head; its body is still to come.

    Args:
        found: the headers by name.
        path: with the query.
        payload_limit: bytes of the body at most.
        timeout: seconds at most, whatever the client allows.
        client: see InferenceRequest.

    Raises:
        ServingError: 400, 413 or 415 (content-encoding).
    """
    arrived = time.monotonic()
    encoding = encoding_of(found[b"content-encoding"]) if b"content-encoding" in found else b""
    budget = _budget(found.get(_TIMEOUT), timeout)
    header_length = _header_length(found.get(HEADER_LENGTH))
    if int(found.get(b"content-length", b"0")) > payload_limit:
        raise TooLarge(payload_limit)
    kind = _kind(found.get(b"content-type", b""))
    accepts = _accepts(found[b"accept-encoding"]) if b"accept-encoding" in found else b""
    more = (kind, encoding, accepts, payload_limit)
    return InferenceRequest(route, path, headers, b"", header_length, arrived, budget, *more, client=client)


async def read_request(
    scope: Scope, receive: Receive, route: str, payload_limit: int, timeout: float
) -> InferenceRequest:
    """Read an inference request; see `request_of`.

    Raises:
        ServingError: 400, 408, 413 or 415 (content-encoding).
        Disconnected: the client left.
    """
    query = scope["query_string"]
    path = scope["raw_path"].decode("ascii") + (f"?{query.decode('ascii')}" if query else "")
    headers = scope["headers"]
    request = request_of(dict(headers), headers, path, route, payload_limit, timeout, scope["state"])
    if WHOLE in scope["state"]:
        request.body = await _read_body(receive, payload_limit)
    else:
        request.body = await _read_body_within(timeout, receive, payload_limit)
    request.whole = time.monotonic()
    return request


@lru_cache(256)
def _kind(value: bytes) -> bytes:
    return value.split(b";")[0].strip().lower()


_accepts = lru_cache(256)(accepted)


async def respond(send: Send, answer: Answer, close: bool) -> None:
    """Send an answer; `close` ends the client's connection after it."""
    await _send_head(send, answer, close)
    await send({"type": "http.response.body", "body": answer.body})


async def refuse(receive: Receive, send: Send, answer: Answer) -> None:
    """Answer a request whose body has not been read, and end the connection.

    What still comes of the body is thrown away for a moment: a connection that is closed upon unread bytes is reset,
    and the client would see that instead of the answer.
    """
    await _send_head(send, answer, close=True)
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})


async def _send_head(send: Send, answer: Answer, close: bool) -> None:
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
    if close:
        headers.append(CLOSE)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


async def _read_body_within(seconds: float, receive: Receive, limit: int) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await _read_body(receive, limit)
    except TimeoutError:
        raise ServingError(408, f"the body did not arrive within {seconds:g} s") from None


async def _read_body(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message["body"])
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(limit)
        if not message["more_body"]:
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _budget(value: bytes | None, timeout: float) -> float:
    if value is None:
        return timeout
    try:
        budget = float(value)
    except ValueError:
        budget = 0.0
    if not 0 < budget < float("inf"):
        raise BadRequest(f"x-request-timeout is {value.decode('latin-1')!r}; it must be seconds above 0")
    return min(budget, timeout)


def _header_length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12:
        raise BadRequest(f"Inference-Header-Content-Length is {value.decode('latin-1')!r}; it must be a number")
    return int(value)
