"""The whole way of an alias: set in a real MLflow, told by its webhook, a candidate in the API server, a tag in MLflow.

The operator polls once an hour here, so nothing but the webhook can bring it.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from tests.integration.conftest import CreateOwner
from tests.integration.mlflow_server import MlflowServer, free_port
from tests.integration.operator_process import Launcher, shown_on_failure, until
from tests.integration.test_registry_webhooks import documented

pytestmark = pytest.mark.timeout(400)  # importing MLflow and starting its server take their time

NAME = "model-0101"


async def test_an_alias_is_a_candidate_by_webhook_and_a_tag_in_return(
    mlflow: MlflowServer,
    start: Launcher,
    admin: KubeApi,
    create_owner: CreateOwner,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, key, client = free_port(), tmp_path / "key", MlflowClient(mlflow.uri)
    key.write_text("a long random word")
    monkeypatch.setenv("MODELRAMP_WEBHOOK_HOST", "127.0.0.1")
    monkeypatch.setenv("MODELRAMP_WEBHOOK_PORT", str(port))
    webhook = await asyncio.to_thread(documented, mlflow.uri, f"http://127.0.0.1:{port}", key)
    registry = {"uri": mlflow.uri, "write": True, "webhookSecretFile": str(key)}
    operator = await start("one", pollInterval="1h", registries={"default": registry})

    async def candidate(version: int) -> Any:
        body = await admin.read(path_of(OWNER, namespace, "digits"))
        return body["status"].get("candidate", {}).get("version") == version

    async def tagged(version: int) -> Any:
        tags = (await asyncio.to_thread(client.get_model_version, NAME, str(version))).tags
        return tags.get(f"modelramp.{namespace}.digits.state") == "canary"

    async with shown_on_failure(operator):
        await create_owner(model={"name": NAME, "alias": "prod"})
        await until(lambda: candidate(1))
        await until(lambda: tagged(1))
        version = int((await asyncio.to_thread(client.create_model_version, NAME, "s3://models/2")).version)
        await asyncio.to_thread(client.set_registered_model_alias, NAME, "prod", str(version))
        await until(lambda: candidate(version))
        await until(lambda: tagged(version))
        assert not await tagged(1)
    await asyncio.to_thread(client.delete_webhook, webhook.webhook_id)
