"""The relay's own HTTP connections: every way in which an answer may rightly come, and bounds for the others."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import uvloop

from modelramp_server.exchange import Answer, InferenceRequest
from modelramp_server.relay.client import CandidateClient, CandidateFailed
from modelramp_server.relay.outcomes import Net
from modelramp_server.relay.wire import Endpoint
from tests.server import candidate_stub
from tests.server.candidate_stub import BODY, Candidate, answer, says

REVISION = "bbbbbbbb"


@pytest.fixture
def candidate() -> Iterator[Candidate]:
    running = Candidate()
    yield running
    running.stop()


def request(body: bytes = b"{}") -> InferenceRequest:
    headers = [(b"host", b"x"), (b"content-length", b"2"), (b"accept", b"a/b"), (b"x-modelramp-peer", b"forged")]
    return InferenceRequest("infer", "/v2/x", headers, body, None, time.monotonic(), 30.0)


async def asked(candidate: Candidate, times: int = 1, limit: int | None = None) -> list[Answer | Net]:
    """What becomes of requests, one after the other, by one client."""
    client = CandidateClient(candidate.url, "aaaaaaaa", answer_limit=limit, marks=lambda: {"x-modelramp-peer": "own"})
    found: list[Answer | Net] = []
    for _ in range(times):
        try:
            found.append(await client.ask(request(), REVISION, 20.0))
        except CandidateFailed as failure:
            found.append(failure.reason)
    await client.close()
    return found


@pytest.mark.parametrize(
    ("sent", "close", "connections"),
    [
        (answer(), False, 1),
        (answer(), True, 2),
        (answer(extra="connection: close\r\n"), True, 2),
        (b"HTTP/1.1 200 X\r\ncontent-type: a/b\r\n\r\n" + BODY, True, 2),
        (b"HTTP/1.0 200 X\r\n\r\n" + BODY, True, 2),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(), False, 1),
        (b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), False, 1),
    ],
    ids=["kept", "closed after it", "said to be closed", "no length", "HTTP 1.0", "told to continue", "chunked"],
)
async def test_a_whole_answer_however_it_comes(
    candidate: Candidate, sent: bytes, close: bool, connections: int
) -> None:
    candidate.behave = says(sent, then_close=close)
    answers = await asked(candidate, times=2)
    assert [each.body if isinstance(each, Answer) else each for each in answers] == [BODY, BODY]
    assert candidate.connections == connections


async def test_what_is_passed_on(candidate: Candidate) -> None:
    await asked(candidate)
    lines = candidate.heads[0].lower().split("\r\n")
    assert lines[0] == f"post /{REVISION}/v2/x http/1.1"
    assert sorted(lines[1:-2]) == [
        "accept: a/b",
        "content-length: 2",
        f"host: 127.0.0.1:{candidate.port}",
        "x-modelramp-peer: own",
        "x-modelramp-relayed: aaaaaaaa",
        "x-request-timeout: 20.000",
    ]


ENDLESS_HEAD = b"HTTP/1.1 200 X\r\n" + b"x-a: 1\r\n" * 10_000
TOO_MUCH = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n" + b"400\r\n%b\r\n" % (b" " * 1024) * 10


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (ENDLESS_HEAD, Net.BROKEN),
        (b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Net.BROKEN),
        (answer(length=5000), Net.SIZE),
        (TOO_MUCH, Net.SIZE),
    ],
    ids=["a head that does not end", "another protocol", "said to be long", "long, without a word"],
)
async def test_what_is_not_waited_for(candidate: Candidate, sent: bytes, reason: Net) -> None:
    candidate.behave = candidate_stub.hangs_after(sent)
    assert await asked(candidate, limit=4096) == [reason]


async def test_bytes_that_nobody_asked_for_end_the_connection(candidate: Candidate) -> None:
    candidate.behave = says(answer() + answer(500))
    found = await asked(candidate, times=3)
    assert [each.status for each in found if isinstance(each, Answer)] == [200, 200, 200], "no answer is another's"
    assert candidate.connections == 3


async def test_who_takes_no_connection_is_not_slow_but_not_there() -> None:
    """As a pod that has gone, before everybody knows: what is sent to its address is lost."""
    with socket.socket() as deaf, ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # more than its queue holds; nobody takes them out of it
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        client = CandidateClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", "aaaaaaaa")
        with pytest.raises(CandidateFailed) as failed:
            await client.ask(request(), REVISION, 0.1)
        await client.close()
    assert failed.value.reason is Net.REFUSED


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(("there", "found"), [(True, BODY), (False, Net.SLOW)], ids=["answered", "silent"])
def test_a_pause_of_ones_own_is_not_the_candidates(
    candidate: Candidate, run: Callable[..., bytes | Net], there: bool, found: bytes | Net
) -> None:
    """The answer came in time; the process that asked stood still, and reads it late."""

    async def paused() -> bytes | Net:
        client = CandidateClient(candidate.url, "aaaaaaaa")
        await client.ask(request(), REVISION, 20.0)  # a connection to keep
        if not there:
            candidate.behave = says(b"")
        asking = asyncio.ensure_future(client.ask(request(), REVISION, 0.2))
        asyncio.get_running_loop().call_soon(time.sleep, 1.0)
        try:
            return bytes((await asking).body)
        except CandidateFailed as failure:
            return failure.reason
        finally:
            await client.close()

    assert run(paused()) == found


async def test_a_request_that_is_given_up_takes_its_connection_along(candidate: Candidate) -> None:
    client = CandidateClient(candidate.url, "aaaaaaaa")
    candidate.behave = candidate_stub.hangs
    with pytest.raises(CandidateFailed) as failed:
        await client.ask(request(), REVISION, 0.1)
    assert failed.value.reason is Net.SLOW
    task = asyncio.create_task(client.ask(request(), REVISION, 20.0))
    await asyncio.to_thread(_until, lambda: len(candidate.heads) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    candidate.behave = says(answer())
    assert (await client.ask(request(), REVISION, 20.0)).body == BODY
    assert candidate.connections == 3
    await client.close()


def _until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "base", "header"),
    [
        ("http://a.svc:80/x/", "a.svc", 80, False, "/x", b"a.svc"),
        ("http://a.svc", "a.svc", 80, False, "", b"a.svc"),
        ("https://a.svc", "a.svc", 443, True, "", b"a.svc"),
        ("http://[::1]:8000", "::1", 8000, False, "", b"[::1]:8000"),
    ],
)
def test_addresses(url: str, host: str, port: int, tls: bool, base: str, header: bytes) -> None:
    found = Endpoint.of(url)
    assert (found.host, found.port, found.tls, found.base, found.host_header) == (
        host,
        port,
        tls,
        base,
        (b"host", header),
    )


@pytest.mark.parametrize("url", ["ftp://a", "a:80", "", "http://"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="no http address"):
        Endpoint.of(url)
