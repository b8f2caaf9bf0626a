"""An answer leaves in one write, and is the same to the byte as uvicorn would have written it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from modelramp_server.one_write import OneWrite

DATE = (b"date", b"Sat, 01 Jan 2022 00:00:00 GMT")
JSON = (b"content-type", b"application/json")


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def exchange(kind: type[RequestResponseCycle], wire: Wire, method: str = "POST", keep_alive: bool = True) -> Any:
    unused: Any = None
    flow: Any = SimpleNamespace(write_paused=False)
    scope: Any = {"method": method}
    event = asyncio.Event()
    transport: Any = wire
    return kind(scope, transport, flow, unused, unused, False, [DATE], event, False, keep_alive, lambda: None)


async def answered(
    kind: type[RequestResponseCycle], headers: list[tuple[bytes, bytes]], bodies: list[bytes], **how: Any
) -> tuple[Wire, Any]:
    wire = Wire()
    cycle = exchange(kind, wire, **how)
    await cycle.send({"type": "http.response.start", "status": 200, "headers": headers})
    for index, body in enumerate(bodies, 1):
        await cycle.send({"type": "http.response.body", "body": body, "more_body": index < len(bodies)})
    return wire, cycle


@pytest.mark.parametrize(
    ("headers", "bodies", "how", "writes"),
    [
        ([JSON, (b"content-length", b"2")], [b"{}"], {}, 1),
        ([JSON, (b"content-length", b"0")], [b""], {}, 1),
        ([JSON, (b"content-length", b"2"), (b"connection", b"close")], [b"{}"], {}, 1),
        ([JSON, (b"content-length", b"2")], [b"{}"], {"keep_alive": False}, 1),
        ([JSON, (b"content-length", b"2")], [b"{}", b""], {}, 1),
        ([JSON, (b"content-length", b"100000")], [b"x" * 100_000], {}, 2),
        ([JSON, (b"content-length", b"2")], [b"{}"], {"method": "HEAD"}, 1),
        ([JSON], [b"{}", b"[]"], {}, 3),
    ],
    ids=["JSON", "empty", "closing", "asked to close", "lingering", "large", "HEAD", "chunked"],
)
async def test_the_same_bytes_in_fewer_writes(
    headers: list[tuple[bytes, bytes]], bodies: list[bytes], how: dict[str, Any], writes: int
) -> None:
    theirs, ours = (
        await answered(RequestResponseCycle, headers, bodies, **how),
        await answered(OneWrite, headers, bodies, **how),
    )
    assert b"".join(ours[0].writes) == b"".join(theirs[0].writes)
    assert len([data for data in ours[0].writes if data]) == writes
    assert (ours[0].closed, ours[1].keep_alive) == (theirs[0].closed, theirs[1].keep_alive)
    assert ours[1].response_complete and theirs[1].response_complete


async def test_a_body_of_another_length_than_said_is_no_answer() -> None:
    for body in (b"{", b"{}}"):
        with pytest.raises(RuntimeError, match="Content-Length"):
            await answered(OneWrite, [(b"content-length", b"2")], [body])


@pytest.mark.parametrize("value", [b"a\r\nx-forged: 1", b"a\nb", b"a\rb", b"a\0b"])
async def test_a_header_with_a_line_break_is_not_sent(value: bytes) -> None:
    wire = Wire()
    with pytest.raises(RuntimeError):
        await exchange(OneWrite, wire).send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), (b"x", value)]}
        )
    assert wire.writes == []


async def test_the_server_uses_it(lookup_server: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lookup_server.port)
    try:
        for _ in range(20):
            writer.write(b"GET /v2 HTTP/1.1\r\nhost: here\r\n\r\n")
            together = await reader.read(65536)
            assert b"\r\n\r\n{" in together and together.endswith(b"}")
    finally:
        writer.close()
        await writer.wait_closed()
