"""Requests at a given rate, whether the answers come or not: what a crowd of clients does, and a closed loop hides.

A latency counts from when a request was due, not from when this process came to send it.
"""

import asyncio
import random
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field

import uvloop

_SEED = 0
_TICK = 0.001
_MOST_CONNECTIONS = 4000
_PATIENCE = 5.0  # seconds, after the last request


@dataclass
class Answers:
    """What came back. Latencies of the 200s in seconds, with when they came; answers by the revision that gave them."""

    offered: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    retry_after: set[int] = field(default_factory=set)
    revisions: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, due: float, now: float) -> None:
        """Count one answer."""
        self.codes[code] += 1
        if code == "200":
            self.latencies.append((now, now - due))

    def percentile(self, share: float) -> float:
        """Of the latencies of the 200s; 0 without any."""
        ordered = sorted(latency for _, latency in self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def per_second(self, start: float, end: float, within: float) -> float:
        """200s between two moments that took no longer than `within` seconds."""
        return sum(start <= at < end and took <= within for at, took in self.latencies) / (end - start)


class _Connection(asyncio.Protocol):
    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._buffer = b""
        self.due = 0.0
        self.busy = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, due: float) -> None:
        assert self.transport is not None
        self.due, self.busy = due, True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if len(body) < int(headers[b"content-length"]):
            return
        self._buffer, self.busy = b"", False
        if b"retry-after" in headers:
            self._crowd.answers.retry_after.add(int(headers[b"retry-after"]))
        if b"x-modelramp-revision" in headers:
            self._crowd.answers.revisions[headers[b"x-modelramp-revision"].decode()] += 1
        self._crowd.answered(self, head[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._crowd.answered(self, "broken")


class Crowd:
    """Clients of one URL, each with a connection of its own that it keeps."""

    def __init__(self, host: str, port: int, request: bytes) -> None:
        self._address = host, port
        self._request = request
        self._idle: deque[_Connection] = deque()
        self._open = 0
        self._loops = False
        self._last: asyncio.Event | None = None
        self.answers = Answers()

    async def closed_loop(self, clients: int, seconds: float) -> Answers:
        """Each client asks again when it has its answer."""
        self._loops = True
        for _ in range(clients):
            await self._ask(time.monotonic())
        await asyncio.sleep(seconds)
        self._loops = False
        await self._settle()
        return self.answers

    async def open_loop(self, rate: float, seconds: float) -> Answers:
        """Arrivals of a Poisson process."""
        gaps = random.Random(_SEED)
        due = start = time.monotonic()
        while due < start + seconds:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            while due <= now and due < start + seconds:
                await self._ask(due)
                due += gaps.expovariate(rate)
        await self._settle()
        return self.answers

    def answered(self, connection: _Connection, code: str) -> None:
        """Called by a connection."""
        now = time.monotonic()
        self.answers.add(code, connection.due, now)
        if code == "broken":
            self._open -= 1
        elif self._loops:
            self.answers.offered += 1
            connection.send(self._request, now)
        else:
            self._idle.append(connection)
        if self._last is not None and self._all_here():
            self._last.set()

    async def _ask(self, due: float) -> None:
        self.answers.offered += 1
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.send(self._request, due)
                return
        if self._open >= _MOST_CONNECTIONS:
            self.answers.add("not sent", due, due)
            return
        self._open += 1
        _, made = await asyncio.get_running_loop().create_connection(lambda: _Connection(self), *self._address)
        made.send(self._request, due)

    async def _settle(self) -> None:
        self._last = asyncio.Event()
        if not self._all_here():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._last.wait(), _PATIENCE)
        missing = self.answers.offered - self.answers.codes.total()
        if missing:
            self.answers.codes["no answer"] += missing

    def _all_here(self) -> bool:
        return self.answers.offered == self.answers.codes.total()


def post(path: str, body: bytes, budget: float) -> bytes:
    """A request of JSON, with a budget in seconds, as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: modelramp\r\ncontent-type: application/json\r\n"
        f"x-request-timeout: {budget:g}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def closed(host: str, port: int, request: bytes, clients: int, seconds: float) -> Answers:
    """A closed loop, run to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Crowd(host, port, request).closed_loop(clients, seconds))


def opened(host: str, port: int, request: bytes, rate: float, seconds: float) -> Answers:
    """An open loop, run to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Crowd(host, port, request).open_loop(rate, seconds))
