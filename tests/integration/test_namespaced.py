"""An operator with rights in one namespace only: it does all its work there, and asks for nothing elsewhere."""

import json
import re
import secrets
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from modelramp.adapters.cache import POD
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.adapters.translate import SERVICE
from modelramp.desired.meta import SPLIT_ANNOTATION
from modelramp.ports import Object
from tests.integration.conftest import CreateOwner, cluster, kubectl
from tests.integration.mlflow_server import MlflowServer
from tests.integration.operator_process import ROOT, Launcher, shown_on_failure, until
from tests.integration.stand_in_node import StandInNode

# The first time on a machine, helm is compiled; MLflow takes its time to start.
# Alone, as it asks what the API server refused anybody.
pytestmark = [pytest.mark.timeout(900), pytest.mark.alone]

MODEL = "model-0103"


@pytest.fixture
async def home(admin: KubeApi, namespace: str) -> AsyncIterator[str]:
    """The namespace of a release that looks after the test's namespace only."""
    name = f"home-{secrets.token_hex(4)}"
    await admin.write("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    manifests = rendered(name, namespace)
    kubectl("apply", "-f", "-", stdin=manifests)
    yield name
    kubectl("delete", "--wait=false", "-f", "-", stdin=manifests)
    await admin.write("DELETE", f"/api/v1/namespaces/{name}", None)


def rendered(home: str, watched: str, **values: str) -> str:
    given = {"watchNamespaces": f"{{{watched}}}", "replicas": "0", **values}
    flags = [f"--set={name}={value}" for name, value in given.items()]
    return cluster("helm", "template", "modelramp", str(ROOT / "charts" / "modelramp"), "--namespace", home, *flags)


def test_the_chart_gives_rights_in_the_watched_namespaces_only() -> None:
    bodies = [body for body in yaml.safe_load_all(rendered("home", "red,blue")) if body]
    assert not [body["kind"] for body in bodies if body["kind"].startswith("ClusterRole")]
    bound = {
        (body["metadata"]["namespace"], body["roleRef"]["kind"], body["roleRef"]["name"])
        for body in bodies
        if body["kind"] == "RoleBinding"
    }
    assert bound == {
        ("red", "Role", "modelramp-operator-rollouts"),
        ("blue", "Role", "modelramp-operator-rollouts"),
        ("home", "Role", "modelramp-operator"),
    }
    assert {body["metadata"]["namespace"] for body in bodies if body["kind"] == "Role"} == {"red", "blue", "home"}


def test_without_the_policy_nothing_of_the_cluster_is_created() -> None:
    bodies = [body for body in yaml.safe_load_all(rendered("home", "red", admissionPolicy="false")) if body]
    assert all(body["metadata"].get("namespace") for body in bodies)


async def test_a_rollout_needs_no_right_of_the_cluster(
    start: Launcher, admin: KubeApi, create_owner: CreateOwner, namespace: str, home: str, mlflow: MlflowServer
) -> None:
    register(mlflow, 2)
    alias(mlflow, 1)
    refusals = not_allowed()
    silent = {"inputs": "Any", "smoke": {"example": False}}  # no pod of a stand-in node can be asked
    rollout = {"steps": [{"weight": 10, "hold": "1h"}], "gates": silent}
    await create_owner(model={"name": MODEL, "alias": "prod"}, rollout=rollout)
    registries = {"default": {"uri": mlflow.uri}}
    operator = await start("one", home=home, registries=registries, pollInterval="1s", lookInterval="1s")

    async def status() -> Any:
        return (await admin.read(path_of(OWNER, namespace, "digits"))).get("status", {})

    async def serves() -> bool:
        return bool(
            (await status()).get("phase") == "Stable" and await admin.find(path_of(SERVICE, namespace, "digits"))
        )

    async def split() -> bool:
        pods = (await admin.read(path_of(POD, namespace)))["items"]
        return any(SPLIT_ANNOTATION in pod["metadata"].get("annotations", {}) for pod in pods)

    async with shown_on_failure(operator), StandInNode(admin, namespace).running():
        await until(serves, 90)
        alias(mlflow, 2)
        await until(split, 60)
    assert not re.search("forbidden", operator.log.read_text(), re.IGNORECASE)
    assert {write["objectRef"]["namespace"] for write in operator.writes()} == {namespace, home}
    assert not [write for write in operator.writes() if write["responseStatus"]["code"] == 403]
    assert not_allowed() == refusals


def not_allowed() -> float:
    """Requests so far that the API server's authorizers did not allow, of reading ones too."""
    lines = kubectl("get", "--raw", "/metrics").splitlines()
    counted = [line for line in lines if line.startswith("authorization_attempts_total{")]
    assert any('result="allowed"' in line for line in counted)
    return sum(float(line.rpartition(" ")[2]) for line in counted if 'result="allowed"' not in line)


def register(mlflow: MlflowServer, version: int) -> None:
    made = ask(mlflow, "model-versions/create", name=MODEL, source=f"s3://models/0/{version}")
    assert made["model_version"]["version"] == str(version)


def alias(mlflow: MlflowServer, version: int) -> None:
    ask(mlflow, "registered-models/alias", name=MODEL, alias="prod", version=str(version))


def ask(mlflow: MlflowServer, what: str, **body: str) -> Object:
    address = f"{mlflow.uri}/api/2.0/mlflow/{what}"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))
