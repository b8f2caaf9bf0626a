"""``python -m modelramp`` as processes under the chart's account, each with a token of its own.

The API server's audit log names the token, so it tells which of several processes wrote what.
"""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.lease import LEASE
from modelramp.ports import Object
from tests.audit_log import entries

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE, NAME = "modelramp-system", "modelramp-operator"
CREDENTIAL = "authentication.kubernetes.io/credential-id"


@dataclass
class Operator:
    """A running operator. ``cluster`` is the folder of the control plane, which holds the audit log."""

    process: asyncio.subprocess.Process
    log: Path
    credential: str
    cluster: Path

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.process.wait()

    async def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def writes(self, since: datetime | None = None) -> list[Object]:
        """What it asked the API server to write, refused or not, as the audit log has it."""
        return [
            entry
            for entry in entries(self.cluster / "audit.log")
            if self.credential in entry["user"].get("extra", {}).get(CREDENTIAL, ())
            and (since is None or datetime.fromisoformat(entry["requestReceivedTimestamp"]) >= since)
        ]


@dataclass
class Launcher:
    """Starts operators that look after one namespace only, and ends them."""

    admin: KubeApi
    admin_kubeconfig: Path
    folder: Path
    watched: str
    started: list[Operator] = field(default_factory=list)

    async def __call__(self, identity: str, home: str = NAMESPACE, **settings: Any) -> Operator:
        """``home`` is the namespace of its account and its Lease."""
        config, kubeconfig, log = (self.folder / f"{identity}.{kind}" for kind in ("yaml", "kubeconfig", "log"))
        written = {"serverImage": "localhost/none:dev", "watchNamespaces": [self.watched], "logFormat": "text"}
        config.write_text(yaml.safe_dump(written | settings))
        token = await self._token(home)
        kubeconfig.write_text(with_token(self.admin_kubeconfig.read_text(), token))
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "MODELRAMP_CONFIG": str(config),
            "MODELRAMP_NAMESPACE": home,
            "MODELRAMP_POD_NAME": identity,
            "MODELRAMP_HEALTH_HOST": "127.0.0.1",
            "MODELRAMP_HEALTH_PORT": "0",
        }
        with log.open("w") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "modelramp", env=environment, stdout=output, stderr=output
            )
        self.started.append(Operator(process, log, f"JTI={token_id(token)}", self.admin_kubeconfig.parent))
        return self.started[-1]

    async def end(self) -> None:
        for operator in self.started:
            if operator.process.returncode is None:
                operator.process.kill()
            await operator.process.wait()

    async def _token(self, home: str) -> str:
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = await self.admin.write("POST", f"/api/v1/namespaces/{home}/serviceaccounts/{NAME}/token", request)
        return str(answer["status"]["token"])


async def holder(admin: KubeApi, home: str = NAMESPACE) -> Object:
    """The spec of the operators' Lease; empty if there is none."""
    lease = await admin.find(path_of(LEASE, home, NAME))
    return dict(lease["spec"]) if lease else {}


def with_token(kubeconfig: str, token: str) -> str:
    """The same cluster, by another account."""
    config = yaml.safe_load(kubeconfig)
    users = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    return yaml.safe_dump(config | {"users": users})


def token_id(token: str) -> str:
    payload = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"])


@asynccontextmanager
async def shown_on_failure(*operators: Operator) -> AsyncIterator[None]:
    """Their logs."""
    try:
        yield
    except BaseException:
        for operator in operators:
            print(f"--- {operator.log.name}\n{operator.log.read_text()[-4000:]}")
        raise


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 40.0) -> Any:
    """The first truthy answer of ``await check()``. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (answer := await check()):  # noqa: ASYNC110, another process sets no asyncio.Event
            await asyncio.sleep(0.1)
        return answer
