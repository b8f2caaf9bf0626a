"""Taking over a Service on a real API server, with the chart's rights: as it was, with us, given back."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelramp.adapters.cache import Cache
from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.adapters.translate import SERVICE
from modelramp.ports import Key, Object
from tests.integration.conftest import CreateOwner, kubectl
from tests.integration.engine_here import EngineHere, serves
from tests.integration.stand_in_node import StandInNode
from tests.integration.test_kube import eventually

pytestmark = pytest.mark.timeout(120)
ANNOTATION = "modelramp.dev/adopt-service"
THEIRS = """
apiVersion: v1
kind: Service
metadata: {name: classify, labels: {team: shop}}
spec:
  selector: {app: old}
  ports: [{name: web, port: 80, targetPort: 5000}]
"""


@pytest.fixture
async def engine(
    api: KubeApi, cache: Cache, admin: KubeApi, namespace: str, create_owner: CreateOwner
) -> AsyncIterator[EngineHere]:
    """It looks after an object that serves; beside it stands a Service that a person has applied."""
    kubectl("-n", namespace, "apply", "-f", "-", stdin=THEIRS)
    await create_owner("digits")
    async with StandInNode(admin, namespace).running():
        engine = EngineHere(api, cache, Key(namespace, "digits"))
        await engine.until(serves(1))
        yield engine


async def annotate(admin: KubeApi, namespace: str, name: str | None) -> None:
    body = {"metadata": {"annotations": {ANNOTATION: name}}}
    await admin.write("PATCH", path_of(OWNER, namespace, "digits"), body, MERGE_PATCH)


async def theirs(admin: KubeApi, namespace: str) -> Object:
    return await admin.read(path_of(SERVICE, namespace, "classify"))


def adopted(status: dict[str, Any]) -> bool:
    return bool((status.get("service") or {}).get("since"))


async def taken(engine: EngineHere, admin: KubeApi, namespace: str) -> Object:
    await annotate(admin, namespace, "classify")
    await engine.until(adopted)
    await engine.turn()
    return await theirs(admin, namespace)


async def test_only_selector_and_target_port_change_and_nothing_owns_it(
    engine: EngineHere, admin: KubeApi, namespace: str
) -> None:
    before = await theirs(admin, namespace)
    service = await taken(engine, admin, namespace)
    assert set(service["spec"]["selector"]) == {"modelramp.dev/name", "modelramp.dev/revision"}
    assert service["spec"]["ports"] == [{"name": "web", "port": 80, "protocol": "TCP", "targetPort": "http"}]
    assert service["spec"]["clusterIP"] == before["spec"]["clusterIP"]
    assert "ownerReferences" not in service["metadata"] and service["metadata"]["labels"]["team"] == "shop"
    for _ in range(3):
        await engine.turn()
    assert (await theirs(admin, namespace))["metadata"]["resourceVersion"] == service["metadata"]["resourceVersion"]


async def test_it_follows_a_promotion(engine: EngineHere, admin: KubeApi, namespace: str) -> None:
    await taken(engine, admin, namespace)
    engine.answers.alias, engine.step = 2, 5.0
    owner = await engine.until(serves(2))
    service = await theirs(admin, namespace)
    assert service["spec"]["selector"]["modelramp.dev/revision"] == owner["status"]["stable"]["revision"]


async def test_given_back_it_is_as_it_was(engine: EngineHere, admin: KubeApi, namespace: str) -> None:
    before = await theirs(admin, namespace)
    await taken(engine, admin, namespace)
    await annotate(admin, namespace, None)
    await engine.turn()
    after = await theirs(admin, namespace)
    assert after["spec"] == before["spec"]
    for part in ("labels", "annotations"):
        assert after["metadata"][part] == before["metadata"][part]


async def test_with_the_object_it_is_given_back(engine: EngineHere, admin: KubeApi, namespace: str) -> None:
    before = await theirs(admin, namespace)
    await taken(engine, admin, namespace)
    kubectl("-n", namespace, "delete", "mdep", "digits")
    await engine.turn()
    assert (await theirs(admin, namespace))["spec"] == before["spec"]


async def test_an_orphaning_delete_leaves_it_with_the_pods(engine: EngineHere, admin: KubeApi, namespace: str) -> None:
    selector = (await taken(engine, admin, namespace))["spec"]["selector"]
    options = {"propagationPolicy": "Orphan"}
    await admin.write("DELETE", path_of(OWNER, namespace, "digits"), options)

    async def gone() -> bool:
        await engine.turn()
        return await admin.find(path_of(OWNER, namespace, "digits")) is None

    await eventually(gone)
    await engine.turn()
    assert (await theirs(admin, namespace))["spec"]["selector"] == selector


@pytest.mark.parametrize("arguments", [(), ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")])
async def test_a_tool_that_applies_its_selector_again_is_named(
    engine: EngineHere, admin: KubeApi, namespace: str, arguments: tuple[str, ...]
) -> None:
    selector = (await taken(engine, admin, namespace))["spec"]["selector"]
    kubectl("-n", namespace, "apply", *arguments, "-f", "-", stdin=THEIRS.replace("old", "elder"))
    owner = await engine.until(lambda status: (status.get("service") or {}).get("contestedAt"))
    await engine.turn()
    manager = "argocd-controller" if arguments else "kubectl-client-side-apply"
    contested = next(c for c in owner["status"]["conditions"] if c["type"] == "ServiceContested")
    assert contested["message"].startswith(f"{manager} changed spec.selector of Service classify")
    assert (await theirs(admin, namespace))["spec"]["selector"] == selector


@pytest.mark.parametrize("kind", ["ExternalName", "headless"])
async def test_what_our_pods_could_not_serve_stays_untouched(
    engine: EngineHere, admin: KubeApi, namespace: str, kind: str
) -> None:
    spec = {"type": "ExternalName", "externalName": "db.example.com"} if kind == "ExternalName" else {}
    spec = spec or {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]}
    made = await admin.write("POST", path_of(SERVICE, namespace), {"metadata": {"name": "other"}, "spec": spec})
    await annotate(admin, namespace, "other")
    owner = await engine.until(lambda status: (status.get("service") or {}).get("reason") == "ServiceUnfit")
    await engine.turn()
    assert any(c["type"] == "ServiceNotAdopted" for c in owner["status"]["conditions"])
    assert await admin.read(path_of(SERVICE, namespace, "other")) == made
