"""Sends the held-out images to one model without a pause, at a steady rate, and writes down every answer.

Each worker keeps one connection, so that a Service balances them as it does any client's. A request is sent again
only where a kept connection turned out to have been closed before any byte of the answer, as HTTP clients do
(RFC 9112, 9.3.1; inference is free of side effects); these are counted. Anything else but a 200 is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import aiohttp
import uvloop

from .answers import Answer
from .names import MODEL

SEED = 7
TIMEOUT = 20.0
FLUSH = 0.1
Image = tuple[bytes, int]


def read(path: Path) -> list[Image]:
    """What bodies.py wrote: each image as the body of a request, with its label."""
    pairs = (json.loads(line) for line in path.read_text().splitlines())
    return [(body.encode(), label) for body, label in pairs]


def endlessly(pool: list[Image]) -> Iterator[Image]:
    """The whole pool again and again, each time in another order: a fixed one could march in step with a split."""
    order = random.Random(SEED)
    while True:
        yield from order.sample(pool, len(pool))


class Connection:
    """One client with one kept connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_reused)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            headers={"content-type": "application/json"},
            trace_configs=[trace],
        )

    async def ask(self, image: Image) -> Answer:
        """Never raises for what the other side does: a failure is an answer too."""
        body, label = image
        sent, retries = time.time(), 0
        while True:
            seen = SimpleNamespace(reused=False)
            try:
                async with self._session.post(self._url, data=body, trace_request_ctx=seen) as response:
                    payload = await response.read()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as gone:
                if seen.reused and not retries:
                    retries = 1
                    continue
                return Answer(sent, time.time() - sent, 0, retries=retries, error=f"{type(gone).__name__}: {gone}")
            except (aiohttp.ClientError, TimeoutError) as failure:
                text = f"{type(failure).__name__}: {failure}"
                return Answer(sent, time.time() - sent, 0, retries=retries, error=text)
            return _answer(sent, response, payload, label, retries)

    async def close(self) -> None:
        await self._session.close()


async def _reused(_session: object, context: SimpleNamespace, _parameters: object) -> None:
    context.trace_request_ctx.reused = True


def _answer(sent: float, response: aiohttp.ClientResponse, payload: bytes, label: int, retries: int) -> Answer:
    took = time.time() - sent
    if response.status != 200:
        return Answer(sent, took, response.status, retries=retries, error=payload[:300].decode(errors="replace"))
    headers = response.headers
    try:
        digit = json.loads(payload)["outputs"][0]["data"][0]
    except (ValueError, LookupError):
        return Answer(sent, took, 0, retries=retries, error=f"no answer to read: {payload[:200]!r}")
    return Answer(
        sent,
        took,
        200,
        headers.get("x-modelramp-revision", ""),
        int(headers.get("x-modelramp-version", "0")),
        headers.get("x-modelramp-net", ""),
        digit == label,
        retries,
    )


async def _work(
    connection: Connection, schedule: Iterator[float], pool: Iterator[Image], out: TextIO, stop: asyncio.Event
) -> None:
    """Takes the next moment of the schedule, waits for it, asks; late moments are made up for at once."""
    loop = asyncio.get_running_loop()
    try:
        while not stop.is_set():
            await asyncio.sleep(max(0.0, next(schedule) - loop.time()))
            out.write((await connection.ask(next(pool))).line())
    finally:
        await connection.close()


async def send(
    url: str, pool: Iterator[Image], rate: float, connections: int, out: TextIO, stop: asyncio.Event
) -> None:
    """Send until `stop` is set, or whoever started this is gone; requests under way still get their answers.

    rate: requests per second over all connections.
    """
    start = asyncio.get_running_loop().time()

    async def flush() -> None:
        parent = os.getppid()
        while True:
            await asyncio.sleep(FLUSH)
            out.flush()
            if os.getppid() != parent:
                stop.set()

    flushing = asyncio.create_task(flush())
    schedules = [(start + turn / rate for turn in count(first, connections)) for first in range(connections)]
    await asyncio.gather(*(_work(Connection(url), schedule, pool, out, stop) for schedule in schedules))
    flushing.cancel()
    out.flush()


async def _run(arguments: argparse.Namespace) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    url = f"{arguments.url}/v2/models/{arguments.model}/infer"
    with arguments.out.open("a") as out:
        await send(url, endlessly(read(arguments.images)), arguments.rate, arguments.connections, out, stop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the main Service, for example http://127.0.0.1:8080")
    parser.add_argument("images", type=Path, help="what bodies.py wrote")
    parser.add_argument("out", type=Path, help="file to which the answers are added")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rate", type=float, default=250, help="requests per second (%(default)s)")
    parser.add_argument("--connections", type=int, default=16)
    uvloop.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
