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
NOT_YET = "it asks for a key, and does not know the operator's yet"

Annotate = Callable[[Key, str, str], Awaitable[None]]  # a pod; name and value


class KeyedFetch:
    """As ``fetch``, and with a key where one is asked for. No pod is shown a key that it was not told of."""

    def __init__(self, fetch: Fetch, annotate: Annotate) -> None:
        self._fetch = fetch
        self._annotate = annotate
        self._secret = secrets.token_bytes(32)

    async def __call__(self, namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        """Raises Unreadable; also while the pod does not take the key."""
        key = hmac.digest(self._secret, f"{namespace}/{pod.name}".encode(), "sha256").hex()
        digest = f"sha256:{sha256(key.encode()).hexdigest()}"
        keyed = replace(request, headers={**request.headers, "x-api-key": key})
        told = pod.operator_key == digest
        answer = await self._fetch(namespace, pod, keyed if told else request)
        if answer.status == 401 and not told:
            answer = await self._told(namespace, pod, keyed, digest)
        if answer.status == 401:
            raise Unreadable(NOT_YET)
        return answer

    async def _told(self, namespace: str, pod: Pod, request: PodRequest, digest: str) -> PodAnswer:
        """The answer once the pod knows the key; or 401, if that takes long."""
        try:
            await self._annotate(Key(namespace, pod.name), KEY_ANNOTATION, digest)
        except (ClusterError, Conflict) as error:
            raise Unreadable(f"it asks for a key, and can't be told the operator's: {error}") from error
        for _ in range(round(TOLD_SECONDS / PAUSE)):
            await asyncio.sleep(PAUSE)
            answer = await self._fetch(namespace, pod, request)
            if answer.status != 401:
                break
        return answer
