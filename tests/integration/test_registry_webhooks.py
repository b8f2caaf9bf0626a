"""A real MLflow tells the operator that an alias has moved, as docs/operations.md says to set it up."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from mlflow import MlflowClient

from modelramp.adapters.clock import SystemClock
from modelramp.adapters.mlflow_registry import MlflowRegistry
from modelramp.api.spec import ModelRef
from modelramp.domain.world import Resolved
from modelramp.edge.webhooks import Webhooks
from modelramp.engine.approvals import Approvals
from modelramp.engine.registries import Registries, RegistryConfig
from modelramp.ports import Key
from tests.integration.mlflow_server import MlflowServer

pytestmark = pytest.mark.timeout(400)  # importing MLflow and starting its server take their time

ROOT = Path(__file__).resolve().parents[2]
KEY = Key("shop", "digits")
NAME = "model-0102"


class Operator:
    """The poller and the webhooks' endpoint; the poller asks by itself once an hour."""

    def __init__(self, mlflow: MlflowServer, secret_file: Path) -> None:
        self.adapter, self.woken, clock = MlflowRegistry("default", mlflow.uri), asyncio.Event(), SystemClock()
        configs = {"default": RegistryConfig(mlflow.uri)}
        self.registries = Registries(configs, {"default": self.adapter}, clock, lambda _: self.woken.set())
        webhooks = Webhooks(clock, {"default": secret_file}, {})
        webhooks.lead(self.registries.nudge, Approvals())
        self.server = TestServer(webhooks.application())

    async def resolves(self, version: int) -> None:
        while True:
            self.woken.clear()
            answer = self.registries.resolve(KEY, ModelRef(name=NAME, alias="prod"))
            if isinstance(answer, Resolved) and answer.model.version == version:
                return
            await self.woken.wait()


@pytest.fixture
async def operator(mlflow: MlflowServer, tmp_path: Path) -> AsyncIterator[Operator]:
    operator = Operator(mlflow, tmp_path / "key")
    poller = asyncio.create_task(operator.registries.run(3600.0))
    async with operator.server:
        yield operator
    poller.cancel()
    operator.adapter.close()


def documented(mlflow: str, operator: str, key: Path) -> Any:
    """What docs/operations.md says to run, with these addresses; the webhook that it makes."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (block,) = [it for it in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "create_webhook" in it]
    names: dict[str, Any] = {}
    replaced = block.replace("https://mlflow.example.org", mlflow).replace("webhook-key", str(key))
    exec(replaced.replace("https://modelramp.example.org", operator), names)  # noqa: S102, the repository's own text
    return names["webhook"]


async def test_a_moved_alias_is_known_without_a_poll(operator: Operator, mlflow: MlflowServer, tmp_path: Path) -> None:
    key, address = tmp_path / "key", str(operator.server.make_url("")).rstrip("/")
    key.write_text("a long random word\n")
    webhook = await asyncio.to_thread(documented, mlflow.uri, address, key)
    client = MlflowClient(mlflow.uri)
    tested = await asyncio.to_thread(client.test_webhook, webhook.webhook_id)
    assert (tested.response_status, tested.response_body) == (200, "the registry is asked\n")
    await operator.resolves(1)
    version = await asyncio.to_thread(client.create_model_version, NAME, "s3://models/new")
    await asyncio.to_thread(client.set_registered_model_alias, NAME, "prod", version.version)
    await operator.resolves(2)

    key.write_text("another word")
    tested = await asyncio.to_thread(client.test_webhook, webhook.webhook_id)
    assert (tested.success, tested.response_status) == (False, 401)
    await asyncio.to_thread(client.delete_webhook, webhook.webhook_id)
