"""HTTPRoutes on a real API server, without and with Gateway API, under the rights that the chart gives the operator.

Nobody acts on Gateways here: the tests write into the route's status what a controller would.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.api.spec import Spec
from modelramp.api.status import Status
from modelramp.desired import children
from modelramp.desired.meta import Owner
from modelramp.desired.project import Desired
from modelramp.domain.world import World
from modelramp.engine.carry_out import Carrier
from modelramp.ports import ROUTE_KINDS, Key, Object, Observation
from modelramp.routers.gateway import ROUTER
from tests.integration.conftest import CreateOwner, cluster, kubectl
from tests.integration.stand_in_node import StandInNode
from tests.integration.test_kube import HASH, eventually, owner_of, revision

pytestmark = pytest.mark.alone  # kinds come and go

PARENT = {"name": "public", "namespace": "edge"}
TRAFFIC: dict[str, Any] = {"gateway": {"parentRefs": [PARENT], "hostnames": ["a.test"]}}
OTHER = "00c0ffee"
(HTTP_ROUTE,) = ROUTE_KINDS


def status(weight: int) -> Status:
    stable = {"revision": HASH, "version": 1, "since": "2026-01-01T00:00:00Z"}
    candidate = {"revision": OTHER, "version": 2, "cause": "Alias", "startedAt": "2026-01-01T00:00:00Z"}
    return Status.model_validate(
        {"stable": stable, "candidate": candidate, "traffic": {"router": "Gateway", "weight": weight}}
    )


def routed(owner: Owner, weight: int) -> Desired:
    """What project() adds for the router, and nothing else."""
    spec = Spec.model_validate({"model": {"name": "digits", "alias": "prod"}, "traffic": TRAFFIC})
    return Desired(ROUTER.objects(owner, spec, status(weight), World()), {}, {})


def holds(seen: Observation, weight: int) -> bool:
    turn: Any = SimpleNamespace(world=seen.world, status=status(weight))
    return ROUTER.in_force(turn)


async def test_without_gateway_api_the_object_is_observed_and_told_why(
    kube_cluster: KubeCluster, create_owner: CreateOwner, namespace: str
) -> None:
    await create_owner(traffic=TRAFFIC)
    seen = await kube_cluster.observe(Key(namespace, "digits"))
    assert seen.owner is not None
    assert "does not know HTTPRoute (gateway.networking.k8s.io/v1)" in seen.world.unusable["HTTPRoute"]


@pytest.fixture(scope="module")
def gateway_api(admin_kubeconfig: Path) -> Iterator[None]:
    cluster("up", "--control-plane-only", "--with", "gateway")
    yield
    names = kubectl("get", "crd", "-o", "name").split()
    mine = [name for name in names if name.endswith("gateway.networking.k8s.io")]
    # A kind that is not ready to be listed when it is deleted may be looked at again only after minutes.
    kubectl("get", "--all-namespaces", ",".join(name.partition("/")[2] for name in mine))
    kubectl("delete", "--timeout=60s", *mine)


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("gateway_api")
async def test_a_route_is_written_once_and_what_others_change_is_put_back(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    key = Key(namespace, "digits")
    owner = owner_of(await create_owner(traffic=TRAFFIC))

    async def version() -> str:
        await Carrier(kube_cluster).carry_out(owner, routed(owner, 10), await kube_cluster.observe(key))
        route = await admin.read(path_of(HTTP_ROUTE, *key))
        assert {ref["name"]: ref["weight"] for ref in route["spec"]["rules"][0]["backendRefs"]} == {
            f"digits-{HASH}": 90,
            f"digits-{OTHER}": 10,
        }
        return str(route["metadata"]["resourceVersion"])

    first = await version()
    assert await version() == first, "a restarted operator writes nothing"
    route = await admin.read(path_of(HTTP_ROUTE, *key))
    rule = route["spec"]["rules"][0]
    refs = [{**ref, "weight": 50} for ref in rule["backendRefs"]]
    header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}
    for changed in ({**rule, "backendRefs": refs}, {**rule, "filters": [header]}):
        stray = {"spec": {"rules": [changed]}}
        strayed = await admin.write("PATCH", path_of(HTTP_ROUTE, *key), stray, MERGE_PATCH, {"fieldManager": "person"})
        await noticed(kube_cluster, key, strayed)
        mended = await version()
        assert mended != first
        assert "filters" not in (await admin.read(path_of(HTTP_ROUTE, *key)))["spec"]["rules"][0]
        assert await version() == mended


@pytest.mark.usefixtures("gateway_api")
async def test_a_weight_is_in_force_once_the_gateway_accepts_that_generation(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    key = Key(namespace, "digits")
    owner = owner_of(await create_owner(traffic=TRAFFIC))
    (body,) = routed(owner, 10).objects
    route = await kube_cluster.apply(body)
    assert not holds(await kube_cluster.observe(key), 10)
    await noticed(kube_cluster, key, await accept(admin, key, route["metadata"]["generation"]))
    seen = await kube_cluster.observe(key)
    assert holds(seen, 10) and not holds(seen, 50)
    (body,) = routed(owner, 50).objects
    await kube_cluster.apply(body)
    assert not holds(await kube_cluster.observe(key), 50), "accepted was the generation before"


async def noticed(kube_cluster: KubeCluster, key: Key, written: Object) -> None:
    """Until a route that others have written has come by the watch."""

    async def seen() -> bool:
        routes = (await kube_cluster.observe(key)).world.routes
        return [route["metadata"]["resourceVersion"] for route in routes] == [written["metadata"]["resourceVersion"]]

    assert await eventually(seen)


async def accept(admin: KubeApi, key: Key, generation: int) -> Object:
    """As the controller of edge/public would. The route then."""
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": kind,
            "message": "",
            "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parent = {
        "parentRef": PARENT,
        "controllerName": "modelramp.test/stand-in",
        "conditions": conditions,
    }
    path = path_of(HTTP_ROUTE, *key, "status")
    return await admin.write("PATCH", path, {"status": {"parents": [parent]}}, MERGE_PATCH)


@pytest.mark.usefixtures("gateway_api")
async def test_a_route_nobody_wants_any_more_is_deleted(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    key = Key(namespace, "digits")
    owner = owner_of(await create_owner())
    (body,) = routed(owner, 10).objects
    await kube_cluster.apply(body)
    await Carrier(kube_cluster).carry_out(owner, Desired((), {}, {}), await kube_cluster.observe(key))
    assert await admin.find(path_of(HTTP_ROUTE, *key)) is None


@pytest.mark.usefixtures("gateway_api")
async def test_somebody_elses_route_is_not_taken_over(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    await create_owner(traffic=TRAFFIC)
    theirs = {"apiVersion": HTTP_ROUTE.api_version, "kind": HTTP_ROUTE.kind, "metadata": {"name": "digits"}, "spec": {}}
    await admin.write("POST", path_of(HTTP_ROUTE, namespace), theirs)

    async def refused() -> bool:
        world = (await kube_cluster.observe(Key(namespace, "digits"))).world
        return "is not ours" in world.unusable.get("HTTPRoute", "") and world.routes == ()

    assert await eventually(refused)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("gateway_api")
async def test_endpoints_are_counted_by_revision(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    owner = owner_of(await create_owner(traffic=TRAFFIC))
    async with StandInNode(admin, namespace).running():
        await kube_cluster.apply(children.deployment(owner, revision()))
        await kube_cluster.apply(children.revision_service(owner, HASH))

        async def ready() -> bool:
            return (await kube_cluster.observe(Key(namespace, "digits"))).world.endpoints.get(HASH) == 1

        assert await eventually(ready)
