"""The HTTP client to the candidate: pooled connections of a limited age, bytes passed raw, answers taken whole."""

import asyncio
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import aiohttp
from multidict import CIMultiDict

from modelramp_server.exchange import Answer, Header, InferenceRequest
from modelramp_server.relay.outcomes import Net

# A connection sticks to one pod behind the candidate's Service; renewing it lets kube-proxy choose again.
CONNECTION_AGE = 30.0
CONNECT_TIMEOUT = 1.0
ANSWER_LIMIT = 32 * 1024 * 1024
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect")
)  # fmt: skip
# Said anew, or not: what the client gets is compressed by the server that it asked, so that both sides can be compared.
_OWN = frozenset((b"x-request-timeout", b"accept-encoding"))
_NOT_PASSED_BACK = _HOP_BY_HOP | {b"date", b"server"}
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class CandidateFailed(Exception):
    """No whole answer; `reason` says why."""

    def __init__(self, reason: Net) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CandidateClient:
    """Hands one request to the candidate. Must be created and closed on the event loop."""

    def __init__(
        self,
        url: str,
        sender: str,
        clock: Callable[[], float] = time.monotonic,
        answer_limit: int | None = None,
        marks: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """`answer_limit`: bytes of an answer at most, if fewer than ANSWER_LIMIT. `marks`: further headers to send."""
        self._url = url
        self._sender = sender
        self._answer_limit = answer_limit
        self._clock = clock
        self._marks = marks
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._born = 0.0
        self._retired: set[asyncio.Task[None]] = set()

    async def ask(self, request: InferenceRequest, revision: str, budget: float) -> Answer:
        """The candidate's whole answer.

        Args:
            request: passed on raw, marked as relayed.
            revision: fills `{revision}` in the address; checked to be 8 hex digits when the split was read.
            budget: seconds.

        Raises:
            CandidateFailed: SLOW, BROKEN, REFUSED or SIZE.
        """
        try:
            async with asyncio.timeout(budget):
                return await self._ask(request, revision, budget)
        except TimeoutError:
            raise CandidateFailed(Net.SLOW) from None

    async def close(self) -> None:
        """Close all connections."""
        for task in self._retired:
            task.cancel()
        for session in (self._pooled, self._fresh):
            if session is not None:
                await session.close()

    async def _ask(self, request: InferenceRequest, revision: str, budget: float) -> Answer:
        url = self._url.replace("{revision}", revision) + request.path
        headers = self._headers(request.headers, budget)
        trace = SimpleNamespace(reused=False)
        try:
            return await self._exchange(self._pool(budget), url, headers, request.body, trace)
        except CandidateFailed as failure:
            if failure.reason is not Net.BROKEN or not trace.reused or trace.answered:
                raise
        return await self._exchange(self._unpooled(), url, headers, request.body, trace)

    async def _exchange(
        self, session: aiohttp.ClientSession, url: str, headers: CIMultiDict[str], body: bytes, trace: SimpleNamespace
    ) -> Answer:
        trace.answered = False
        try:
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=trace
            ) as response:
                trace.answered = True
                payload = await _read_whole(response, self._answer_limit or ANSWER_LIMIT)
                back = [(n.lower(), v) for n, v in response.raw_headers if n.lower() not in _NOT_PASSED_BACK]
                return Answer(response.status, payload, back)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise CandidateFailed(Net.REFUSED) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise CandidateFailed(Net.BROKEN) from None

    def _headers(self, given: Iterable[Header], budget: float) -> CIMultiDict[str]:
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in given
            if name not in _HOP_BY_HOP and name not in _OWN
        )
        headers["x-modelramp-relayed"] = self._sender
        headers["x-request-timeout"] = f"{budget:.3f}"
        headers.update(self._marks())
        return headers

    def _pool(self, budget: float) -> aiohttp.ClientSession:
        now = self._clock()
        if self._pooled is None or now - self._born > CONNECTION_AGE:
            if self._pooled is not None:
                self._retire(self._pooled, budget)
            self._pooled, self._born = _session(reuse=True), now
        return self._pooled

    def _unpooled(self) -> aiohttp.ClientSession:
        if self._fresh is None:
            self._fresh = _session(reuse=False)
        return self._fresh

    def _retire(self, session: aiohttp.ClientSession, budget: float) -> None:
        """Close a session once what is in flight on it has had its budget."""

        async def later() -> None:
            try:
                await asyncio.sleep(max(budget, CONNECTION_AGE))
            finally:
                await session.close()

        task = asyncio.get_running_loop().create_task(later())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


def _session(reuse: bool) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=10, force_close=not reuse)
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        skip_auto_headers=_AUTOMATIC,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
        trace_configs=[_notes_reuse()] if reuse else [],
    )


def _notes_reuse() -> aiohttp.TraceConfig:
    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config


async def _read_whole(response: aiohttp.ClientResponse, limit: int) -> bytes:
    if (response.content_length or 0) > limit:
        raise CandidateFailed(Net.SIZE)
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise CandidateFailed(Net.SIZE)
    return b"".join(parts)
