"""The HTTP client to the candidate: pooled connections of a limited age, bytes passed raw, answers taken whole."""

import asyncio
import time
from collections.abc import Callable
from ssl import SSLContext, create_default_context

from modelramp_server.exchange import Answer, Body, Header, InferenceRequest
from modelramp_server.relay.outcomes import Net
from modelramp_server.relay.wire import Broken, Endpoint, TooLong, Wire

# A connection sticks to one pod behind the candidate's Service; renewing it lets kube-proxy choose again.
CONNECTION_AGE = 30.0
CONNECT_TIMEOUT = 1.0
ANSWER_LIMIT = 32 * 1024 * 1024
_CATCH_UP = 0.05  # seconds
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect")
)  # fmt: skip
# Said anew, or not: what the client gets is compressed by the server that it asked, so that both sides can be compared.
_OWN = frozenset((b"x-request-timeout", b"accept-encoding"))
_NOT_PASSED_ON = _HOP_BY_HOP | _OWN
_NOT_PASSED_BACK = _HOP_BY_HOP | {b"date", b"server"}


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
        self._sender = sender.encode()
        self._answer_limit = answer_limit
        self._clock = clock
        self._marks = marks
        self._at: tuple[str, Endpoint] | None = None
        self._idle: list[Wire] = []
        self._open: set[Wire] = set()
        self._tls: SSLContext | None = None

    async def ask(self, request: InferenceRequest, revision: str, budget: float) -> Answer:
        """The candidate's whole answer.

        Args:
            request: passed on raw, marked as relayed.
            revision: fills `{revision}` in the address; checked to be 8 hex digits when the split was read.
            budget: seconds.

        Raises:
            CandidateFailed: SLOW, BROKEN, REFUSED or SIZE. Who takes no connection in time is not slow, but not there:
                a process that hangs is still connected to, by its kernel.
        """
        deadline = asyncio.get_running_loop().time() + budget
        endpoint = self._endpoint(revision)
        head = self._head(endpoint, request, budget)
        wire = self._kept()
        if wire is not None:
            try:
                return await self._exchange(endpoint, wire, head, request.body, deadline)
            except CandidateFailed as failure:
                if failure.reason is not Net.BROKEN or not wire.silent:
                    raise  # else it may have ended before the request came: once more, on a fresh connection
        wire = await self._connect(endpoint, deadline)
        return await self._exchange(endpoint, wire, head, request.body, deadline)

    async def close(self) -> None:
        """Close all connections."""
        for wire in self._open:
            wire.close()
        self._idle.clear()
        await asyncio.gather(*(wire.closed for wire in self._open))

    async def _exchange(self, endpoint: Endpoint, wire: Wire, head: bytes, body: Body, deadline: float) -> Answer:
        try:
            async with asyncio.timeout(None) as limit:
                timer = asyncio.get_running_loop().call_at(deadline, _expire, limit, deadline)
                try:
                    reply = await wire.ask(head, body, self._answer_limit or ANSWER_LIMIT)
                finally:
                    timer.cancel()
        except TimeoutError:
            raise CandidateFailed(Net.SLOW) from None
        except Broken:
            raise CandidateFailed(Net.BROKEN) from None
        except TooLong:
            raise CandidateFailed(Net.SIZE) from None
        if wire.usable and self._at is not None and self._at[1] is endpoint:
            self._idle.append(wire)
        else:
            wire.close()
        back = [header for header in reply.headers if header[0] not in _NOT_PASSED_BACK]
        return Answer(reply.status, reply.body, back)

    def _endpoint(self, revision: str) -> Endpoint:
        if self._at is None or self._at[0] != revision:
            self._at = (revision, Endpoint.of(self._url.replace("{revision}", revision)))
            while self._idle:
                self._idle.pop().close()
        return self._at[1]

    def _head(self, endpoint: Endpoint, request: InferenceRequest, budget: float) -> bytes:
        own: list[Header] = [(name.lower().encode(), value.encode("latin-1")) for name, value in self._marks().items()]
        own += (b"x-modelramp-relayed", self._sender), (b"x-request-timeout", b"%.3f" % budget)
        own += ((b"content-length", b"%d" % len(request.body)),)
        replaced = {name for name, _ in own} | _NOT_PASSED_ON
        passed = [header for header in request.headers if header[0] not in replaced]
        lines = b"".join(b"%b: %b\r\n" % header for header in (endpoint.host_header, *passed, *own))
        return b"POST %b HTTP/1.1\r\n%b\r\n" % ((endpoint.base + request.path).encode("ascii"), lines)

    def _kept(self) -> Wire | None:
        """The connection that was used last, unless all are too old."""
        while self._idle:
            wire = self._idle.pop()
            if wire.usable and self._clock() - wire.born <= CONNECTION_AGE:
                return wire
            wire.close()
        return None

    async def _connect(self, endpoint: Endpoint, deadline: float) -> Wire:
        if endpoint.tls and self._tls is None:
            self._tls = create_default_context()
        try:
            async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + CONNECT_TIMEOUT)):
                wire = await Wire.connect(endpoint, self._tls if endpoint.tls else None, self._clock())
        except (OSError, TimeoutError):
            raise CandidateFailed(Net.REFUSED) from None
        self._open.add(wire)
        wire.closed.add_done_callback(lambda _: self._open.discard(wire))
        return wire


def _expire(limit: asyncio.Timeout, deadline: float) -> None:
    """At the deadline. A process that stood still (its CPU was taken away, say) comes late to it, and has not read what
    came meanwhile: its own pause is not the candidate's."""
    now = asyncio.get_running_loop().time()
    limit.reschedule(now if now - deadline < _CATCH_UP else now + _CATCH_UP)
