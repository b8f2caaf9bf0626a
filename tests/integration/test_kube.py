"""The Cluster adapter on a real API server, with the rights that the chart gives the operator and no more."""

import asyncio
import json
from typing import Any

import pytest

from modelramp.adapters.cache import POD, Cache
from modelramp.adapters.clock import SystemClock
from modelramp.adapters.kube import EVENT, KubeCluster
from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.adapters.translate import CONTROLLER_REVISION, DEPLOYMENT, SERVICE
from modelramp.api.spec import MainService, Scaling
from modelramp.desired import children
from modelramp.desired.meta import Owner
from modelramp.domain.world import Event, ModelVersion, Revision
from modelramp.engine.leader import LeaseLost
from modelramp.ports import CHILD_KINDS, ClusterError, Conflict, Key, Object
from tests.integration.conftest import CreateOwner, kubectl
from tests.integration.stand_in_node import Behaviour, StandInNode

HASH = "3f2a9c01"
MODEL = ModelVersion("default", "digits", 3, "run", "models:/m-1", 1_700_000_000_000)


def revision(name: str = HASH) -> Revision:
    labels = {"modelramp.dev/name": "digits", "modelramp.dev/revision": name}
    container = {
        "name": "server",
        "image": "localhost/none:dev",
        "env": [{"name": "MODEL_VERSION", "value": "3"}],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    return Revision(name, MODEL, {"metadata": {"labels": labels}, "spec": {"containers": [container]}}, 1)


def owner_of(body: Object) -> Owner:
    return Owner(body["metadata"]["namespace"], body["metadata"]["name"], body["metadata"]["uid"])


def bodies(owner: Owner) -> list[Object]:
    """One of each kind of child."""
    scaling = Scaling.model_validate({"minReplicas": 2, "maxReplicas": 4})
    return [
        children.controller_revision(owner, revision()),
        children.deployment(owner, revision()),
        children.revision_service(owner, HASH),
        children.main_service(owner, HASH, MainService()),
        children.autoscaler(owner, HASH, scaling, 2),
        children.disruption_budget(owner, HASH),
    ]


async def eventually(check: Any, seconds: float = 20.0) -> Any:
    """The first truthy answer of ``await check()``."""
    async with asyncio.timeout(seconds):
        while not (answer := await check()):  # noqa: ASYNC110, the API server sets no asyncio.Event
            await asyncio.sleep(0.05)
        return answer


async def test_applying_again_changes_nothing(kube_cluster: KubeCluster, create_owner: CreateOwner) -> None:
    owner = owner_of(await create_owner())
    for body in bodies(owner):
        first = await kube_cluster.apply(body)
        again = await kube_cluster.apply(body)
        # Controllers may have written status between the two; what was applied is the same.
        first_fields, fields = managed(first), managed(again)
        assert first_fields == fields, body["kind"]
        assert first["spec" if "spec" in first else "data"] == again["spec" if "spec" in again else "data"]


async def test_a_settled_object_keeps_its_resource_version(
    kube_cluster: KubeCluster, create_owner: CreateOwner
) -> None:
    owner = owner_of(await create_owner())
    settled = [body for body in bodies(owner) if body["kind"] in ("ControllerRevision", "Service")]
    for body in settled:
        versions = [(await kube_cluster.apply(body))["metadata"]["resourceVersion"] for _ in range(3)]
        assert len(set(versions)) == 1, body["kind"]


def managed(body: Object) -> Any:
    entries = body["metadata"]["managedFields"]
    return [(e["fieldsV1"], e["time"]) for e in entries if e["manager"] == "modelramp-operator"]


async def test_applying_takes_over_what_somebody_else_changed(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    owner = owner_of(await create_owner())
    body = children.main_service(owner, HASH, MainService())
    await kube_cluster.apply(body)
    stray = {"spec": {"selector": {"modelramp.dev/revision": "00000000"}}}
    await admin.write("PATCH", path_of(SERVICE, namespace, "digits"), stray, MERGE_PATCH, {"fieldManager": "person"})
    mended = await kube_cluster.apply(body)
    assert mended["spec"]["selector"]["modelramp.dev/revision"] == HASH


async def test_status_is_guarded_by_the_resource_version(kube_cluster: KubeCluster, create_owner: CreateOwner) -> None:
    first = await create_owner()
    status = {**first["status"], "phase": "Gating", "observedGeneration": 1}
    second = await kube_cluster.write_status(first, status)
    assert second["status"]["phase"] == "Gating"
    with pytest.raises(Conflict):
        await kube_cluster.write_status(first, {**status, "phase": "Ramping"})
    assert (await kube_cluster.write_status(second, status))["metadata"]["generation"] == 1


async def test_a_size_set_by_scale_survives_the_next_apply(
    kube_cluster: KubeCluster, create_owner: CreateOwner, namespace: str
) -> None:
    body = children.deployment(owner_of(await create_owner()), revision())
    made = await kube_cluster.apply(body)
    await kube_cluster.scale(DEPLOYMENT, Key(namespace, made["metadata"]["name"]), 3)
    assert (await kube_cluster.apply(body))["spec"]["replicas"] == 3


async def test_a_pass_sees_every_write_of_the_one_before(
    kube_cluster: KubeCluster, create_owner: CreateOwner, namespace: str
) -> None:
    owner, key = owner_of(await create_owner()), Key(namespace, "digits")
    for body in bodies(owner):
        made = await kube_cluster.apply(body)
        (kind,) = (kind for kind in CHILD_KINDS if kind.kind == body["kind"])
        seen = (await kube_cluster.observe(key)).children[kind]
        assert made["metadata"]["uid"] in [child["metadata"]["uid"] for child in seen]
    for replicas in range(2, 12):
        await kube_cluster.scale(DEPLOYMENT, Key(namespace, owner.child(HASH)), replicas)
        (deployment,) = (await kube_cluster.observe(key)).children[DEPLOYMENT]
        assert deployment["spec"]["replicas"] == replicas
    for kind, children_of_kind in (await kube_cluster.observe(key)).children.items():
        for child in children_of_kind:
            await kube_cluster.delete(kind, Key(namespace, child["metadata"]["name"]), child["metadata"]["uid"])
    left = (await kube_cluster.observe(key)).children
    assert not [c for found in left.values() for c in found if "deletionTimestamp" not in c["metadata"]]


async def test_only_the_object_that_was_meant_is_deleted(
    kube_cluster: KubeCluster, create_owner: CreateOwner, namespace: str
) -> None:
    owner = owner_of(await create_owner())
    made = await kube_cluster.apply(children.revision_service(owner, HASH))
    key = Key(namespace, made["metadata"]["name"])
    with pytest.raises(Conflict):
        await kube_cluster.delete(SERVICE, key, "00000000-0000-0000-0000-000000000000")
    await kube_cluster.delete(SERVICE, key, made["metadata"]["uid"])
    await kube_cluster.delete(SERVICE, key, made["metadata"]["uid"])
    assert not (await kube_cluster.observe(Key(namespace, "digits"))).children[SERVICE]


async def test_a_repeated_event_is_counted(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    owner = await create_owner()
    for message in ("version 3 starts", "version 3 starts", "version 4 starts"):
        await kube_cluster.emit(owner, Event("Normal", "CandidateStarted", message))
    events = (await admin.read(path_of(EVENT, namespace)))["items"]
    counts = {e["message"]: e["count"] for e in events if e["involvedObject"]["kind"] == "ModelDeployment"}
    assert counts == {"version 3 starts": 2, "version 4 starts": 1}
    described = kubectl("-n", namespace, "describe", "mdep", "digits")
    assert "version 3 starts" in described and "modelramp-operator" in described


async def test_events_of_one_second_are_described_in_the_order_in_which_they_were_told(
    kube_cluster: KubeCluster, create_owner: CreateOwner, namespace: str
) -> None:
    owner = await create_owner()
    story = [f"chapter {number}" for number in range(6)]
    for chapter in story:
        await kube_cluster.emit(owner, Event("Normal", "Told", chapter))
    described = kubectl("-n", namespace, "describe", "mdep", "digits")
    assert [line.split()[-1] for line in described.splitlines() if "chapter" in line] == list("012345")


async def test_an_event_that_is_too_long_is_cut(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    await kube_cluster.emit(await create_owner(), Event("Warning", "InvalidSpec", "x" * 5000))
    assert (await admin.read(path_of(EVENT, namespace)))["items"]


async def test_an_object_that_is_gone_is_observed_as_such(kube_cluster: KubeCluster, namespace: str) -> None:
    seen = await kube_cluster.observe(Key(namespace, "none"))
    assert seen.owner is None and not seen.children


async def test_children_are_seen_with_their_kinds_and_the_world_in_them(
    kube_cluster: KubeCluster, create_owner: CreateOwner, namespace: str
) -> None:
    body = await create_owner()
    for child in bodies(owner_of(body)):
        await kube_cluster.apply(child)
    seen = await kube_cluster.observe(Key(namespace, "digits"))
    assert {kind.kind: len(found) for kind, found in seen.children.items()} == {
        "ControllerRevision": 1,
        "Deployment": 1,
        "Service": 2,
        "HorizontalPodAutoscaler": 1,
        "PodDisruptionBudget": 1,
        "HTTPRoute": 0,
    }
    assert all(c["kind"] == kind.kind for kind, found in seen.children.items() for c in found)
    assert seen.world.selected == HASH
    assert seen.world.revisions[HASH].model == MODEL
    assert not seen.world.foreign


async def test_what_only_wears_the_label_is_not_a_child(
    kube_cluster: KubeCluster, cache: Cache, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    await create_owner()
    labels = {"modelramp.dev/name": "digits", "modelramp.dev/revision": HASH}
    pod = {"metadata": {"name": "impostor", "labels": labels}, "spec": revision().template["spec"]}
    await admin.write("POST", path_of(POD, namespace), pod)
    service = {"metadata": {"name": "digits", "labels": labels}, "spec": {"ports": [{"port": 80}]}}
    await admin.write("POST", path_of(SERVICE, namespace), service)
    key = Key(namespace, "digits")

    async def copied() -> bool:
        return bool(cache.objects(POD, key) and cache.objects(SERVICE, key))

    await eventually(copied)
    seen = await kube_cluster.observe(key)
    assert not seen.world.pods
    assert not seen.children[SERVICE] and seen.world.selected is None
    assert seen.world.foreign == "Service digits"


async def test_orphans_are_seen_for_adoption_and_other_owners_children_are_not(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    first = await create_owner()
    for child in bodies(owner_of(first)):
        await kube_cluster.apply(child)
    options = {"propagationPolicy": "Orphan"}
    await admin.write("DELETE", path_of(OWNER, namespace, "digits"), options)

    async def gone() -> bool:
        return await admin.find(path_of(OWNER, namespace, "digits")) is None

    await eventually(gone)
    second = await create_owner()

    async def adoptable() -> bool:
        world = (await kube_cluster.observe(Key(namespace, "digits"))).world
        return world.selected == HASH and HASH in world.revisions

    await eventually(adoptable)

    for child in bodies(owner_of(second)):
        await kube_cluster.apply(child)
    seen = await kube_cluster.observe(Key(namespace, "digits"))
    (memory,) = seen.children[CONTROLLER_REVISION]
    assert [r["uid"] for r in memory["metadata"]["ownerReferences"]] == [second["metadata"]["uid"]]


@pytest.mark.parametrize(
    ("behaviour", "ready", "fault"),
    [
        (Behaviour.READY, True, None),
        (Behaviour.NEVER_READY, False, None),
        (Behaviour.CRASH_LOOP, False, ("CrashLoop", True)),
        (Behaviour.LOAD_FAILED, False, ("LoadFailed", True)),
        (Behaviour.IMAGE_PULL_ERROR, False, ("ErrImagePull", False)),
    ],
)
async def test_pods_are_seen_through_their_replica_sets(
    kube_cluster: KubeCluster,
    admin: KubeApi,
    create_owner: CreateOwner,
    namespace: str,
    behaviour: Behaviour,
    ready: bool,
    fault: tuple[str, bool] | None,
) -> None:
    await kube_cluster.apply(children.deployment(owner_of(await create_owner()), revision()))
    key = Key(namespace, "digits")
    async with StandInNode(admin, namespace, {3: behaviour}).running():

        async def shown() -> Any:
            pods = (await kube_cluster.observe(key)).world.pods
            return pods if pods and pods[0].ip else None

        (pod,) = await eventually(shown)
    assert (pod.revision, pod.ready) == (HASH, ready)
    assert (pod.fault and (pod.fault.reason, pod.fault.models_own)) == fault


async def test_the_split_is_written_on_the_pod_and_nothing_else_of_it(
    kube_cluster: KubeCluster, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    await kube_cluster.apply(children.deployment(owner_of(await create_owner()), revision()))
    key = Key(namespace, "digits")
    async with StandInNode(admin, namespace).running():

        async def ready() -> Any:
            world = (await kube_cluster.observe(key)).world
            return world.pods if world.ready(HASH) else None

        (pod,) = await eventually(ready)
        before = await admin.read(path_of(POD, namespace, pod.name))
        split = json.dumps({"v": 1, "generation": 1})
        await kube_cluster.annotate_pod(Key(namespace, pod.name), "modelramp.dev/traffic", split)
        assert [it.split for it in (await kube_cluster.observe(key)).world.pods] == [split]
        after = await admin.read(path_of(POD, namespace, pod.name))
    assert after["metadata"]["annotations"]["modelramp.dev/traffic"] == split
    assert (before["spec"], before["metadata"]["labels"]) == (after["spec"], after["metadata"]["labels"])
    await kube_cluster.annotate_pod(Key(namespace, "gone"), "modelramp.dev/traffic", split)


async def test_nothing_is_written_without_the_lease(
    api: KubeApi, cache: Cache, create_owner: CreateOwner, namespace: str
) -> None:
    def lost() -> None:
        raise LeaseLost("somebody else leads")

    owner = await create_owner()
    cluster = KubeCluster(api, cache, SystemClock(), lost)
    key = Key(namespace, "digits")
    writes = [
        cluster.write_status(owner, {**owner["status"], "phase": "Gating"}),
        cluster.apply(children.revision_service(owner_of(owner), HASH)),
        cluster.scale(DEPLOYMENT, key, 3),
        cluster.annotate_pod(key, "modelramp.dev/traffic", "{}"),
        cluster.delete(SERVICE, key, "uid"),
        cluster.emit(owner, Event("Normal", "Said", "nothing")),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            await write
    assert (await cluster.observe(key)).owner == owner


async def test_a_refusal_says_what_was_tried_and_why(kube_cluster: KubeCluster, create_owner: CreateOwner) -> None:
    body = children.revision_service(owner_of(await create_owner()), HASH)
    body["spec"]["ports"] = [{"port": 0}]
    with pytest.raises(ClusterError, match=r"PATCH .*/services/digits-3f2a9c01: 422: .*spec.ports") as refused:
        await kube_cluster.apply(body)
    assert refused.value.status == 422


async def test_the_operator_has_no_right_to_secrets(api: KubeApi, namespace: str) -> None:
    with pytest.raises(ClusterError, match="forbidden"):
        await api.read(f"/api/v1/namespaces/{namespace}/secrets")
