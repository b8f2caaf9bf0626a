"""Exchanges with pods that ask for a key (401), where the operator has none of their clients'.

It makes one for each pod, and tells the pod its digest by an annotation (docs/contract.md). The key itself is in this
process's memory only: there is no secret to keep, and none that opens another pod. The next process has others.
"""

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

from modelramp.adapters.pod_http import Fetch, PodAnswer, PodRequest, Unreadable
from modelramp.desired.meta import KEY_ANNOTATION
from modelramp.domain.world import Pod
from modelramp.ports import ClusterError, Conflict, Key

TOLD_SECONDS, PAUSE = 6.0, 0.5  # in which a pod mostly learns of its annotation; between two requests meanwhile
OUR_SERVERS = 'realm="modelramp"'

Annotate = Callable[[Key, str, str], Awaitable[None]]  # a pod; name and value


class NotLetIn(Unreadable):
    """The pod asks for a key, and does not know the operator's yet."""


class KeyedFetch:
    """As ``fetch``, and with a key where a server of ours asks for one. Only pods that were told of it are shown it."""

    def __init__(self, fetch: Fetch, annotate: Annotate) -> None:
        self._fetch = fetch
        self._annotate = annotate
        self._secret = secrets.token_bytes(32)
        self._told: set[Key] = set()  # pods whose annotation no pass has seen yet

    async def __call__(self, namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        """Raises Unreadable; NotLetIn also where the pod was told just now."""
        name = Key(namespace, pod.name)
        key = hmac.digest(self._secret, f"{namespace}/{pod.name}".encode(), "sha256").hex()
        digest = f"sha256:{sha256(key.encode()).hexdigest()}"
        if pod.operator_key == digest:
            self._told.discard(name)
        told = pod.operator_key == digest or name in self._told
        keyed = replace(request, headers={**request.headers, "x-api-key": key})
        answer = await self._fetch(namespace, pod, keyed if told else request)
        if answer.status != 401 or OUR_SERVERS not in answer.headers.get("www-authenticate", ""):
            return answer
        if not told:
            await self._tell(name, digest)
        raise NotLetIn("it asks for a key, and does not know the operator's yet")

    async def patient(self, namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        """The same, and waits a moment for a pod that has to learn of the key. Raises Unreadable."""
        loop = asyncio.get_running_loop()
        until = loop.time() + TOLD_SECONDS
        while True:
            try:
                return await self(namespace, pod, request)
            except NotLetIn:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(PAUSE)

    async def _tell(self, pod: Key, digest: str) -> None:
        try:
            await self._annotate(pod, KEY_ANNOTATION, digest)
        except (ClusterError, Conflict) as error:
            raise Unreadable(f"it asks for a key, and can't be told the operator's: {error}") from error
        self._told.add(pod)
