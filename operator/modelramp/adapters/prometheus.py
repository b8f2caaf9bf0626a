"""The Queries port: instant queries of a Prometheus server, or of what speaks its HTTP API (Thanos, Mimir, ...).

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import base64
import json
import math
import ssl
from typing import Any, Self

import aiohttp

from modelramp.adapters.credentials import Credentials
from modelramp.adapters.pod_http import PodAnswer, Unreadable, whole
from modelramp.ports import QueryError, RegistryError

PATH = "/api/v1/query"
SECONDS = "5s"  # the server's own limit: it stops working on what nobody waits for any more
LONGEST_TOLD = 200


class Prometheus:
    """An async context manager: it holds connections open between queries. Whoever asks sets the time limit."""

    def __init__(self, uri: str, credentials: Credentials) -> None:
        self._url = uri.rstrip("/") + PATH
        self._credentials = credentials

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(trust_env=False)
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._session.close()

    async def value(self, query: str) -> float:
        """Raises QueryError."""
        form = {"query": query, "timeout": SECONDS}
        try:
            login, tls = self._login()
            async with self._session.post(
                self._url, data=form, headers=login, ssl=tls, allow_redirects=False
            ) as response:
                return number(await whole(response))
        except (OSError, aiohttp.ClientError, Unreadable, RegistryError) as error:
            raise QueryError(str(error) or type(error).__name__) from error

    def _login(self) -> tuple[dict[str, str], ssl.SSLContext | bool]:
        """Read for each query, as for registries: a replaced Secret counts at once. Raises RegistryError, OSError."""
        read = self._credentials.read()
        tls = ssl.create_default_context(cafile=read["server_cert_path"]) if "server_cert_path" in read else True
        if read.get("token"):
            return {"Authorization": f"Bearer {read['token']}"}, tls
        if read.get("username"):
            both = f"{read['username']}:{read['password']}".encode()
            return {"Authorization": f"Basic {base64.b64encode(both).decode()}"}, tls
        return {}, tls


def number(answer: PodAnswer) -> float:
    """The one finite number in an answer. Raises QueryError."""
    try:
        body = json.loads(answer.body)
        if body["status"] != "success":
            raise QueryError(f"answered {answer.status}: {str(body['error'])[:LONGEST_TOLD]}")
        return _only(body["data"]["resultType"], body["data"]["result"])
    except (ValueError, LookupError, TypeError) as error:
        raise QueryError(f"answered {answer.status}, and not as Prometheus does") from error


def _only(kind: str, result: Any) -> float:
    if kind == "vector":
        if not result:
            raise QueryError("no data: nothing matches the query, or not yet")
        if len(result) > 1:
            raise QueryError(f"{len(result)} series where one is wanted: the query must aggregate them")
        sample = result[0]["value"]
    elif kind == "scalar":
        sample = result
    else:
        raise QueryError(f"a {kind} where a vector or a scalar is wanted")
    value = float(sample[1])
    if not math.isfinite(value):
        raise QueryError(f"the value is {sample[1]}: nothing to judge")
    return value
