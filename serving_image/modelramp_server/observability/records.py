"""Records of predictions: the audit log (who, when, which version, of what, said what) and samples of whole payloads.

They stand around the answering of inference requests, whatever protocol brought them; a request that was refused
before is no prediction and leaves no record.
"""

import asyncio
import base64
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

from modelramp_server.exchange import RELAYED, Answer, InferenceRequest
from modelramp_server.observability.context import CALLER, REQUEST_ID
from modelramp_server.observability.line_log import LineLog

SAMPLE_BYTES = 64 * 1024  # of a body, in a sample
_OFF_LOOP = 256 * 1024  # bytes from which hashing leaves the event loop

Document = dict[str, object]


class Answering(Protocol):
    """Who answers inference requests: modelramp_server.relay.traffic.Traffic, or what stands around it."""

    @property
    def hand_over(self) -> bool:
        """See Traffic."""
        ...

    def admit(self, count: bool) -> None:
        """See Traffic."""

    async def answer(self, request: InferenceRequest, relayable: bool, count: bool) -> Answer:
        """See Traffic."""
        ...


class Record(Protocol):
    """Writes down an exchange."""

    async def __call__(self, request: InferenceRequest, answer: Answer) -> None:
        """After the answer is known, before it is sent."""
        ...


class Recorded:
    """Answers, and writes it down."""

    def __init__(self, inner: Answering, records: list[Record]) -> None:
        self._inner = inner
        self._records = records

    @property
    def hand_over(self) -> bool:
        """See Traffic."""
        return self._inner.hand_over

    async def answer(self, request: InferenceRequest, relayable: bool, count: bool) -> Answer:
        """See Traffic."""
        answer = await self._inner.answer(request, relayable, count)
        for record in self._records:
            await record(request, answer)
        return answer

    def admit(self, count: bool) -> None:
        """See Traffic. What has not been read is not written down."""
        self._inner.admit(count)


class Audit:
    """One line a prediction. Bodies are named by their digests."""

    def __init__(self, log: LineLog, model: str) -> None:
        self._log = log
        self._model = model

    async def __call__(self, request: InferenceRequest, answer: Answer) -> None:
        """See Record."""
        latency = time.monotonic() - request.arrived
        given, said = await _digest(bytes(request.body)), await _digest(answer.body)
        output: Document = {"status": answer.status, "bytes": len(answer.body), "sha256": said}
        if answer.prediction is not None:
            output["class"] = answer.prediction.name
            if answer.prediction.confidence is not None:
                output["confidence"] = answer.prediction.confidence
        line = {
            **_origin(request, answer, self._model),
            "input": {"bytes": len(request.body), "sha256": given},
            "output": output,
            "latency_ms": round(latency * 1000, 3),
        }
        self._log.write(line)


class Samples:
    """The bodies of a share (0 to 1) of the exchanges, drawn at random. Headers, and so credentials, are left out."""

    def __init__(self, log: LineLog, model: str, share: float, draw: Callable[[], float] = random.random) -> None:
        self._log = log
        self._model = model
        self._share = share
        self._draw = draw

    async def __call__(self, request: InferenceRequest, answer: Answer) -> None:
        """See Record."""
        if self._draw() < self._share:
            line = {
                **_origin(request, answer, self._model),
                "input": _sample(bytes(request.body)),
                "output": {"status": answer.status, **_sample(answer.body)},
            }
            self._log.write(line)


def _origin(request: InferenceRequest, answer: Answer, model: str) -> Document:
    """Who, when, and which version answered."""
    headers = dict(answer.headers)
    origin: Document = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": REQUEST_ID.get(),
        "caller": CALLER.get(),
        "path": request.path,
        "model": model,
        "version": headers.get(b"x-modelramp-version", b"").decode("latin-1"),
        "revision": headers.get(b"x-modelramp-revision", b"").decode("latin-1"),
    }
    for name, value in request.headers:
        if name == RELAYED:
            origin["relayed_by"] = value.decode("latin-1")
    return origin


async def _digest(body: bytes) -> str:
    if len(body) < _OFF_LOOP:
        return sha256(body).hexdigest()
    return (await asyncio.to_thread(sha256, body)).hexdigest()


def _sample(body: bytes) -> Document:
    part = body[:SAMPLE_BYTES]
    sample: Document = {"bytes": len(body)}
    if len(part) < len(body):
        sample["cut_to"] = len(part)
    try:
        return {**sample, "text": part.decode()}
    except UnicodeDecodeError:
        return {**sample, "base64": base64.b64encode(part).decode()}
