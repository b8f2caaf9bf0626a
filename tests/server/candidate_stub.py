"""A candidate that misbehaves on the wire in every way a real one may."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable

BODY = b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [70.0]}], "predictions": [70.0]}'
"""An answer of V2, and of MLflow's protocol, that stable would not give."""
REVISION = "bbbbbbbb"

Writer = asyncio.StreamWriter
Behaviour = Callable[[Writer], Awaitable[bool]]


def answer(status: int = 200, body: bytes = BODY, length: int | None = None, extra: str = "") -> bytes:
    """An HTTP answer; `length` is what it claims."""
    claimed = len(body) if length is None else length
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {claimed}\r\n"
        f"x-modelramp-revision: {REVISION}\r\nx-modelramp-version: 4\r\nserver-timing: service;dur=7.5\r\n{extra}\r\n"
    )
    return head.encode() + body


class Candidate:
    """Listens on loopback; `behave` decides, request by request, what is done with it."""

    def __init__(self, port: int = 0) -> None:
        self.behave: Behaviour = says(answer())
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.let_go = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", port))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What CANDIDATE_URL would be; the revision is put where a host name can't carry it here."""
        return f"http://127.0.0.1:{self.port}/{{revision}}"

    def stop(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def refuse(self) -> None:
        """Close the port: connections are refused from now on."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()
        self._tasks.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: Writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        self.bodies.append(await reader.readexactly(int(fields.get("content-length", 0))))
        self.heads.append(head)
        return await self.behave(writer)


def says(message: bytes, then_close: bool = False) -> Behaviour:
    """Sends these bytes; keeps the connection, unless told otherwise."""

    async def behave(writer: Writer) -> bool:
        writer.write(message)
        await writer.drain()
        return not then_close

    return behave


async def hangs(writer: Writer) -> bool:
    """Never says a word."""
    await asyncio.sleep(3600)
    return False


def hangs_after(message: bytes) -> Behaviour:
    """Begins, and never ends."""

    async def behave(writer: Writer) -> bool:
        writer.write(message)
        await writer.drain()
        return await hangs(writer)

    return behave


async def closes(writer: Writer) -> bool:
    """Closes without an answer."""
    return False


async def resets(writer: Writer) -> bool:
    """Resets the connection."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False
