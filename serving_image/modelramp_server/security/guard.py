"""In front of the app: who asks, and may they now? Without credentials configured there is no guard at all."""

from collections.abc import Callable
from hmac import compare_digest
from math import ceil
from typing import Protocol

from modelramp_server.exchange import REQUEST_ID, Handler, Header, Receive, Scope, Send, error_answer, refuse, respond
from modelramp_server.observability.context import CALLER
from modelramp_server.protocol.errors import ServingError
from modelramp_server.rate_limit import RateLimit
from modelramp_server.security.api_keys import ApiKeys
from modelramp_server.security.operator_key import OPERATOR, OperatorKey
from modelramp_server.security.refusals import RateLimited, Unauthenticated

PEER_MARK = b"x-modelramp-peer"
_BEARER = b"bearer "
_DRAINED = 64 * 1024  # bytes of an unread body that are cheaper to throw away than a connection
_NO_CREDENTIALS = "send an API key or a token: Authorization: Bearer ..., or X-API-Key: ..."


class TokenOwner(Protocol):
    """Says who a token speaks for."""

    async def owner(self, token: str) -> str:
        """Raises ServingError: 401 or 503."""
        ...


class Guard:
    """Lets a request pass to the app, or answers it 401, 429 or 503 before its body is read."""

    def __init__(
        self,
        keys: Callable[[], ApiKeys],
        operator: OperatorKey,
        tokens: TokenOwner | None,
        limit: RateLimit | None,
        open_paths: frozenset[str],
        rejected: Callable[[str], None],
    ) -> None:
        """`keys`: those in force now. `rejected` is told the reason of every refusal."""
        self._keys = keys
        self._operator = operator
        self._tokens = tokens
        self._limit = limit
        self._open = open_paths
        self._rejected = rejected

    def before(self, app: Handler) -> Handler:
        """The app, guarded."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] not in self._open:
                headers = scope["headers"]
                try:
                    await self.admit(headers)
                except ServingError as error:
                    return await _refuse(receive, send, error, headers)
            await app(scope, receive, send)

        return guarded

    async def admit(self, headers: list[Header]) -> None:
        """Let a request pass, and note who sent it. For any protocol that has headers (names in lower case).

        Raises:
            ServingError: 401, 429 or 503.
        """
        try:
            caller = await self._caller(headers)
            if self._limit is not None and caller != OPERATOR and not self._from_peer(headers):
                wait = self._limit.take(caller)
                if wait:
                    raise RateLimited(self._limit.rate, ceil(wait))
        except ServingError as error:
            self._rejected(error.reason)
            raise
        CALLER.set(caller)

    async def admit_to(self, path: str, headers: list[Header]) -> None:
        """`admit`, where the path is not open to everybody. Raises ServingError."""
        if path not in self._open:
            await self.admit(headers)

    async def _caller(self, headers: list[Header]) -> str:
        shown = dict(headers)
        key = shown.get(b"x-api-key")
        if key is None:
            authorization = shown.get(b"authorization", b"")
            if authorization[: len(_BEARER)].lower() != _BEARER:
                raise Unauthenticated(_NO_CREDENTIALS)
            key = authorization[len(_BEARER) :].strip()
            if self._tokens is not None and key.count(b".") == 2:
                return await self._tokens.owner(key.decode("latin-1"))
        name = self._keys().owner(key) or (OPERATOR if self._operator.admits(key) else None)
        if name is None:
            raise Unauthenticated("the API key is not known here")
        return name

    def _from_peer(self, headers: list[Header]) -> bool:
        """Whether another pod relays it, which has counted it already. A client's own x-modelramp-relayed proves
        nothing; the mark is known to who has the file of keys."""
        mark = self._keys().peer_mark
        return bool(mark) and any(name == PEER_MARK and compare_digest(value, mark) for name, value in headers)


async def _refuse(receive: Receive, send: Send, error: ServingError, headers: list[Header]) -> None:
    answer = error_answer(error)
    if error.status == 401:
        answer.headers.append((b"www-authenticate", b'Bearer realm="modelramp"'))
    sent = dict(headers)
    if REQUEST_ID in sent:
        answer.headers.append((REQUEST_ID, sent[REQUEST_ID]))
    length = sent.get(b"content-length", b"0")
    short = b"transfer-encoding" not in sent and length.isdigit() and int(length) <= _DRAINED
    if short:
        return await respond(send, answer, close=False)
    await refuse(receive, send, answer)
