"""What the chart's ValidatingAdmissionPolicy leaves of the operator's right to patch pods: two annotations."""

from typing import Any

import pytest

from modelramp.adapters.cache import POD
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.ports import ClusterError, Key, Object
from tests.integration.operator_process import until

STRATEGIC = "application/strategic-merge-patch+json"
TRAFFIC, OPERATOR_KEY = "modelramp.dev/traffic", "modelramp.dev/operator-key"
OWNED_BY = {"apiVersion": "v1", "kind": "ConfigMap", "name": "somebody", "uid": "a1b2"}

FORBIDDEN: dict[str, tuple[Object, str]] = {
    "a label": ({"metadata": {"labels": {"modelramp.dev/revision": "00000000"}}}, "its labels"),
    "a label taken away": ({"metadata": {"labels": {"modelramp.dev/name": None}}}, "its labels"),
    "another annotation": ({"metadata": {"annotations": {"example.org/b": "2", TRAFFIC: "{}"}}}, "example.org/b"),
    "an annotation changed": ({"metadata": {"annotations": {"example.org/a": "2"}}}, "example.org/a"),
    "an annotation taken away": ({"metadata": {"annotations": {"example.org/a": None}}}, "example.org/a"),
    "an image": ({"spec": {"containers": [{"name": "server", "image": "localhost/other:dev"}]}}, "its spec"),
    "an owner": ({"metadata": {"ownerReferences": [OWNED_BY]}}, "its owner references"),
    "a finalizer": ({"metadata": {"finalizers": ["example.org/keep"]}}, "its finalizers"),
}


@pytest.fixture
async def pod(admin: KubeApi, api: KubeApi, namespace: str) -> str:
    """The path of a pod as the operator's Deployments make them, once the policy is in force."""
    path = await create_pod(admin, namespace, "digits", {"modelramp.dev/name": "digits"}, {"example.org/a": "1"})
    await until(lambda: refused(api, path))
    return path


async def create_pod(
    admin: KubeApi, namespace: str, name: str, labels: dict[str, str], annotations: dict[str, str] | None = None
) -> str:
    metadata: Object = {"name": name, "labels": labels} | ({"annotations": annotations} if annotations else {})
    spec = {"schedulerName": "none", "containers": [{"name": "server", "image": "localhost/none:dev"}]}
    await admin.write("POST", path_of(POD, namespace), {"metadata": metadata, "spec": spec})
    return path_of(POD, namespace, name)


async def refused(api: KubeApi, path: str) -> bool:
    """A policy takes effect a moment after it was created."""
    try:
        await api.write("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH, {"dryRun": "All"})
    except ClusterError:
        return True
    return False


async def read_back(api: KubeApi, path: str) -> Any:
    metadata = (await api.read(path))["metadata"]
    return metadata.get("annotations", {})


@pytest.mark.parametrize("name", [TRAFFIC, OPERATOR_KEY])
async def test_what_a_pod_is_told_may_be_written_changed_and_taken_away(
    kube_cluster: KubeCluster, admin: KubeApi, api: KubeApi, pod: str, namespace: str, name: str
) -> None:
    for value in ('{"v":1,"generation":1}', '{"v":1,"generation":2}'):
        await kube_cluster.annotate_pod(Key(namespace, "digits"), name, value)
        assert await read_back(admin, pod) == {"example.org/a": "1", name: value}
    await api.write("PATCH", pod, {"metadata": {"annotations": {name: None}}}, MERGE_PATCH)
    assert await read_back(admin, pod) == {"example.org/a": "1"}


async def test_a_pod_without_annotations_may_be_given_the_split(
    kube_cluster: KubeCluster, admin: KubeApi, pod: str, namespace: str
) -> None:
    bare = await create_pod(admin, namespace, "bare", {"modelramp.dev/name": "digits"})
    await kube_cluster.annotate_pod(Key(namespace, "bare"), TRAFFIC, "{}")
    assert await read_back(admin, bare) == {TRAFFIC: "{}"}


@pytest.mark.parametrize("change", FORBIDDEN)
async def test_nothing_else_may_be_changed(admin: KubeApi, api: KubeApi, pod: str, change: str) -> None:
    patch, named = FORBIDDEN[change]
    before = await admin.read(pod)
    only = "operator may change of a pod only the annotations modelramp.dev/traffic and modelramp.dev/operator-key"
    with pytest.raises(ClusterError, match=f"{only}; this request changes {named}$") as told:
        await api.write("PATCH", pod, patch, STRATEGIC)
    assert told.value.status == 422
    after = await admin.read(pod)
    assert after["metadata"] == before["metadata"] and after["spec"] == before["spec"]


async def test_a_pod_of_nobodys_is_left_alone(admin: KubeApi, api: KubeApi, pod: str, namespace: str) -> None:
    stranger = await create_pod(admin, namespace, "stranger", {"app": "shop"})
    with pytest.raises(ClusterError, match=r"this pod has no label modelramp\.dev/name"):
        await api.write("PATCH", stranger, {"metadata": {"annotations": {TRAFFIC: "{}"}}}, MERGE_PATCH)


@pytest.mark.parametrize("change", FORBIDDEN)
async def test_others_may_change_what_they_could(admin: KubeApi, pod: str, change: str) -> None:
    await admin.write("PATCH", pod, FORBIDDEN[change][0], STRATEGIC)
    if change == "a finalizer":
        await admin.write("PATCH", pod, {"metadata": {"finalizers": None}}, MERGE_PATCH)
