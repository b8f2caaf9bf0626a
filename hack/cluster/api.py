"""The few calls this tool makes to the API server itself, as the cluster's administrator."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from errors import ClusterError
from state import Cluster


def ready(cluster: Cluster) -> bool:
    """Whether the API server calls itself ready."""
    return answers(cluster, "/readyz")


def answers(cluster: Cluster, path: str) -> bool:
    """Whether a GET of the path succeeds now."""
    try:
        return _request(cluster, "GET", path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def get(cluster: Cluster, path: str) -> dict[str, Any] | None:
    """The object at an API path, None where there is none. Raises ClusterError on any other answer."""
    return _call(cluster, "GET", path)


def apply(cluster: Cluster, path: str, body: dict[str, Any]) -> None:
    """Server-side apply of one object."""
    _call(cluster, "PATCH", f"{path}?fieldManager=modelramp-cluster&force=true", body)


def _call(cluster: Cluster, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    try:
        status, answer = _request(cluster, verb, path, body)
    except OSError as failure:
        raise ClusterError(f"the API server does not answer ({failure}): is the cluster up?") from failure
    if status == 404 and verb == "GET":
        return None
    if status >= 400:
        raise ClusterError(f"{verb} {path}: the API server answered {status}: {answer[:500].decode()}")
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


def _request(cluster: Cluster, verb: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(cluster.pki / "ca.crt"))
    context.load_cert_chain(cluster.pki / "admin.crt", cluster.pki / "admin.key")
    connection = http.client.HTTPSConnection("127.0.0.1", cluster.api_port, timeout=10, context=context)
    try:
        headers = {"Content-Type": "application/apply-patch+yaml"} if body else {}
        connection.request(verb, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
