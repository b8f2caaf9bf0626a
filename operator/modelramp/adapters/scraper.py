"""The Metrics port: what stable's pods count, read from their own /metrics (docs/contract.md, "Metrics").

The pods run models of other people, so nothing they answer is trusted: no redirects, no proxies, bounded size and time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Self

import aiohttp

from modelramp.adapters.exposition import pod_metrics
from modelramp.adapters.kube_api import KubeApi
from modelramp.domain.world import Pod, PodMetrics
from modelramp.ports import ClusterError

logger = logging.getLogger(__name__)

PORT = 8080
SECONDS = 2.0
LARGEST = 1 << 20  # bytes
AT_ONCE = 64

Fetch = Callable[[str, Pod], Awaitable[bytes]]


class Unreadable(Exception):
    """A pod's answer can't be used."""


class Scraper:
    """Reads pods concurrently by ``fetch``, which raises anything of OSError, ClusterError or Unreadable."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def read(self, namespace: str, pods: Iterable[Pod]) -> Mapping[str, PodMetrics]:
        listed = list(pods)
        answers = await asyncio.gather(*(self._read(namespace, pod) for pod in listed))
        return {pod.name: answer for pod, answer in zip(listed, answers, strict=True) if answer is not None}

    async def _read(self, namespace: str, pod: Pod) -> PodMetrics | None:
        try:
            async with self._slots, asyncio.timeout(SECONDS):
                return pod_metrics((await self._fetch(namespace, pod)).decode())
        except (OSError, aiohttp.ClientError, ClusterError, Unreadable, ValueError) as error:
            named = {"namespace": namespace}
            logger.info("pod %s does not tell its metrics: %s", pod.name, str(error) or "no answer", extra=named)
            return None


class DirectFetch:
    """GET at the pod's own address. An async context manager: it holds connections open between reads."""

    def __init__(self, port: int = PORT) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=SECONDS))
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._session.close()

    async def __call__(self, namespace: str, pod: Pod) -> bytes:
        if pod.ip is None:
            raise Unreadable("it has no address yet")
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        async with self._session.get(f"http://{host}:{self._port}/metrics", allow_redirects=False) as response:
            if response.status != 200:
                raise Unreadable(f"GET /metrics answered {response.status}")
            return await bounded(response.content)


class ProxyFetch:
    """GET through the API server, for an operator that runs outside the cluster's network."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def __call__(self, namespace: str, pod: Pod) -> bytes:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod.name}:{PORT}/proxy/metrics"
        async with self._api.stream(path, SECONDS) as content:
            return await bounded(content)


async def bounded(content: aiohttp.StreamReader) -> bytes:
    """All of it, if that is not too much. Raises Unreadable otherwise."""
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > LARGEST:
            raise Unreadable(f"more than {LARGEST} bytes")
    return bytes(data)
