"""One HTTP exchange with a serving pod, at its own address or through the API server's pod proxy.

The pods run models of other people, so nothing they answer is trusted: no redirects, no proxies of the environment,
bounded size and time. Which pods are asked is the caller's: ``observe`` has verified their chain of owners.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from modelramp.adapters.kube_api import KubeApi
from modelramp.domain.world import Pod
from modelramp.ports import ClusterError

PORT = 8080
LARGEST = 1 << 20  # bytes


@dataclass(frozen=True)
class PodRequest:
    """A GET, or with a body a POST of JSON. ``path`` is quoted; ``seconds`` for the whole exchange."""

    path: str
    seconds: float
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    @property
    def sent_headers(self) -> dict[str, str]:
        return {**self.headers} if self.body is None else {"Content-Type": "application/json", **self.headers}


@dataclass(frozen=True)
class PodAnswer:
    """``headers`` by names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Fetch = Callable[[str, Pod, PodRequest], Awaitable[PodAnswer]]


class Unreadable(Exception):
    """The pod could not be asked, or sent more than is read."""


class DirectFetch:
    """At the pod's own address. An async context manager: it holds connections open between exchanges."""

    def __init__(self, port: int = PORT) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(trust_env=False)
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._session.close()

    async def __call__(self, namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        """Raises Unreadable."""
        if pod.ip is None:
            raise Unreadable("it has no address yet")
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        url = f"http://{host}:{self._port}{request.path}"
        try:
            async with (
                asyncio.timeout(request.seconds),
                self._session.request(
                    request.method, url, data=request.body, headers=request.sent_headers, allow_redirects=False
                ) as response,
            ):
                return await whole(response)
        except (OSError, aiohttp.ClientError) as error:
            raise Unreadable(_told(error, request)) from error


class ProxyFetch:
    """Through the API server, for an operator that runs outside the cluster's network."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def __call__(self, namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        """Raises Unreadable."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod.name}:{PORT}/proxy{request.path}"
        try:
            async with (
                asyncio.timeout(request.seconds),
                self._api.relayed(request.method, path, request.body, request.sent_headers) as response,
            ):
                return await whole(response)
        except (OSError, aiohttp.ClientError, ClusterError) as error:
            raise Unreadable(_told(error, request)) from error


async def whole(response: aiohttp.ClientResponse) -> PodAnswer:
    """All of it, if that is not too much. Raises Unreadable otherwise."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > LARGEST:
            raise Unreadable(f"more than {LARGEST} bytes")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return PodAnswer(response.status, headers, bytes(data))


def _told(error: Exception, request: PodRequest) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer to {request.method} {request.path} within {request.seconds:g} s"
    return str(error) or type(error).__name__
