"""One request to the API server: JSON in, JSON out, within a time limit, with errors that say what was tried.

Built on ``kubernetes.aio``'s ApiClient (connections, TLS, credentials and their renewal), below its generated models:
those would cost memory for every kind and lose fields that they don't know.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from modelramp.ports import ROUTE_KINDS, ClusterError, Conflict, Kind, Object
from modelramp.routers import KINDS

READ_SECONDS = 10.0
WRITE_SECONDS = 4.0  # shorter than the time between a lease that is not renewed and one that is taken over
READ_ATTEMPTS = 3
WATCH_SILENCE = 150.0
RETRIED = frozenset({429, 500, 502, 503, 504})

FIELD_MANAGER = "modelramp-operator"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

Query = Mapping[str, str] | None

PLURALS = {
    Kind("v1", "Event"): "events",
    Kind("v1", "Pod"): "pods",
    Kind("v1", "Service"): "services",
    Kind("apps/v1", "ControllerRevision"): "controllerrevisions",
    Kind("apps/v1", "Deployment"): "deployments",
    Kind("apps/v1", "ReplicaSet"): "replicasets",
    Kind("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    Kind("coordination.k8s.io/v1", "Lease"): "leases",
    Kind("discovery.k8s.io/v1", "EndpointSlice"): "endpointslices",
    Kind("modelramp.dev/v1alpha1", "ModelDeployment"): "modeldeployments",
    Kind("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    **{kind: route.plural for kind, route in zip(ROUTE_KINDS, KINDS, strict=True)},
}


def path_of(kind: Kind, namespace: str, name: str = "", subresource: str = "") -> str:
    """The path of a namespaced object (or its collection) on the API server."""
    parts = [_root(kind), "namespaces", quote(namespace, safe=""), PLURALS[kind]]
    return "/".join([*parts, *(quote(part, safe="") for part in (name, subresource) if part)])


def everywhere(kind: Kind) -> str:
    """The path of a kind's objects in all namespaces."""
    return f"{_root(kind)}/{PLURALS[kind]}"


def _root(kind: Kind) -> str:
    return f"/apis/{kind.api_version}" if "/" in kind.api_version else f"/api/{kind.api_version}"


def written(method: str, path: str, content_type: str) -> tuple[str, str]:
    """A write's verb and resource in the words of RBAC (server-side apply apart): patch deployments/scale."""
    verb = "apply" if content_type == APPLY_PATCH else VERBS[method]
    _, _, inside = path.partition("/namespaces/")
    _, plural, _, subresource = [*inside.split("/"), "", "", "", ""][:4]
    return verb, "/".join(filter(None, (plural, subresource)))


class KubeApi:
    """An open connection pool to one API server. Every call raises ClusterError, or Conflict for a 409."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._count: Callable[[str, str], None] = lambda verb, resource: None

    def count_writes(self, count: Callable[[str, str], None]) -> None:
        """Tells ``count`` the verb and the resource of each write from now on."""
        self._count = count

    @classmethod
    async def connect(cls, kubeconfig: Path | None, user_agent: str = "modelramp-operator") -> "KubeApi":
        """Reads the kubeconfig, or without one the pod's service account. Nothing is sent yet."""
        configuration = Configuration()
        try:
            if kubeconfig is None:
                load_incluster_config(client_configuration=configuration)
            else:
                await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        except (ConfigException, OSError) as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "the pod's service account (KUBECONFIG is not set)"
            raise ClusterError(f"cannot use {where}: {error}") from error
        # For each request aiohttp would ask two threads whether the environment names a proxy; a kubeconfig may.
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.connection_pool_maxsize = 0  # no limit: a watch holds a connection, and the Lease must not wait
        client = ApiClient(configuration)
        client.user_agent = user_agent
        return cls(client)

    @property
    def host(self) -> str:
        return str(self._client.configuration.host)

    async def close(self) -> None:
        await self._client.close()

    async def read(self, path: str, query: Query = None, accept: str = "application/json") -> Object:
        """GET; tried again a few times if the server is unwell."""
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                return await self._send("GET", path, query, {"Accept": accept}, None, READ_SECONDS)
            except ClusterError as error:
                if attempt == READ_ATTEMPTS or not (error.status is None or error.status in RETRIED):
                    raise
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    async def watch(self, path: str, query: Query = None, accept: str = "application/json") -> AsyncIterator[Object]:
        """The events of a watch until the server ends it, as it does now and then. Raises ClusterError, also when
        nothing comes for WATCH_SILENCE seconds: the server sends a bookmark each minute."""
        asked = {**(query or {}), "watch": "true", "allowWatchBookmarks": "true"}
        url, headers = await self._address("GET", path, asked, {"Accept": accept})
        limit = aiohttp.ClientTimeout(total=None, sock_connect=READ_SECONDS, sock_read=WATCH_SILENCE)
        try:
            async with self._session.get(url, headers=headers, timeout=limit) as response:
                if response.status != 200:
                    _answer("WATCH", path, response.status, await response.read())
                async for line in response.content:
                    yield json.loads(line)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ClusterError(f"WATCH {path}: {str(error) or 'silence'}") from error

    async def find(self, path: str) -> Object | None:
        """GET of an object that may not exist."""
        try:
            return await self.read(path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def write(
        self,
        method: str,
        path: str,
        body: Object | None,
        content_type: str = "application/json",
        query: Query = None,
    ) -> Object:
        """POST, PUT, PATCH or DELETE; tried once: whoever asked must look before it asks again."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        self._count(*written(method, path, content_type))
        return await self._send(method, path, query, headers, body, WRITE_SECONDS)

    @asynccontextmanager
    async def relayed(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Something that a pod answers, through the API server's proxy: any status, never redirected, not yet read.

        Raises aiohttp's errors. The time is the caller's to limit.
        """
        url, complete = await self._address(method, path, None, headers)
        # The client's own request() follows redirects, and these would be a pod's.
        async with self._session.request(method, url, data=body, headers=complete, allow_redirects=False) as response:
            yield response

    @property
    def _session(self) -> aiohttp.ClientSession:
        """The client's own pool of connections."""
        rest = self._client.rest_client
        session: aiohttp.ClientSession = rest.pool_manager or rest._create_pool_manager()
        rest.pool_manager = session
        return session

    async def _send(
        self, method: str, path: str, query: Query, headers: dict[str, str], body: Object | None, seconds: float
    ) -> Object:
        try:
            url, headers = await self._address(method, path, query, headers)
            limit = aiohttp.ClientTimeout(total=seconds)
            answer = await self._client.call_api(method, url, headers, body, _request_timeout=limit)
            return _answer(method, path, answer.status, await answer.read())
        except TimeoutError as error:
            raise ClusterError(f"{method} {path}: no answer from {self.host} within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ClusterError(f"{method} {path}: cannot reach {self.host}: {error}") from error

    async def _address(
        self, method: str, path: str, query: Query, headers: dict[str, str]
    ) -> tuple[str, dict[str, str]]:
        """The URL, and the headers with credentials."""
        parameters = list((query or {}).items())
        _, url, complete, *_ = await self._client.param_serialize(
            method, path, query_params=parameters, header_params=headers, auth_settings=["BearerToken"]
        )
        return url, complete


def _answer(method: str, path: str, status: int, data: bytes) -> Object:
    try:
        answer: Any = json.loads(data)
    except ValueError as error:
        raise ClusterError(f"{method} {path}: {status} and not JSON: {data[:200]!r}", status=status) from error
    if status < 300 and isinstance(answer, dict):
        return answer
    message = answer.get("message", "") if isinstance(answer, dict) else str(answer)[:200]
    if status == 409:
        raise Conflict(f"{method} {path}: {message}")
    raise ClusterError(f"{method} {path}: {status}: {message}", status=status)
