"""Today's operator and CRD over what the release before wrote: no child changes, the status is read, it goes on.

``record_release.py`` makes the records. Identity and template of a revision, names, selectors and labels of children:
whatever of these changes restarts pods or begins a rollout in every installation, and fails here.
"""

import copy
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelramp.adapters.cache import Cache
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.api.status import Status
from modelramp.desired.meta import SPLIT_ANNOTATION
from modelramp.engine.carry_out import stands
from modelramp.ports import CHILD_KINDS, Key, Kind, Object
from tests.integration.conftest import kubectl
from tests.integration.engine_here import EngineHere, serves
from tests.integration.record_release import CRD, RELEASES, SPEC, command
from tests.integration.stand_in_metrics import VirtualClock
from tests.integration.stand_in_node import StandInNode
from tests.integration.test_kube import eventually

pytestmark = pytest.mark.alone  # the CRD is another

APPLIED = "modelramp.dev/applied"
RECORDS = sorted(RELEASES.glob("*.json"))
DEPLOYMENT = Kind("apps/v1", "Deployment")


def digest(body: Object) -> str:
    """As release 0.1.0 stamps a child: kept as it was, whatever the present one does."""
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def unstamped(child: Object) -> Object:
    body = copy.deepcopy(child)
    del body["metadata"]["annotations"][APPLIED]
    if not body["metadata"]["annotations"]:
        del body["metadata"]["annotations"]
    return body


def stamped(body: Object) -> Object:
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: digest(body)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def record(path: Path) -> Object:
    found: Object = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_stamped_as_its_release_did(path: Path) -> None:
    children = record(path)["children"]
    assert len(children) > 10
    for child in children:
        assert stamped(unstamped(child)) == child


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_its_status_loses_nothing_that_it_knew(path: Path) -> None:
    status = record(path)["status"]
    read = Status.model_validate(status).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert stands(status, read), "fields may be added, none lost or changed"


@dataclass
class Installation:
    """What a release left: its object, children, sizes and splits, under an object that exists now."""

    api: KubeApi
    key: Key
    recorded: Object

    async def restore(self, cluster: KubeCluster) -> None:
        metadata = {"name": self.key.name, "namespace": self.key.namespace}
        body = {
            "apiVersion": OWNER.api_version,
            "kind": OWNER.kind,
            "metadata": metadata,
            "spec": self.recorded["spec"],
        }
        owner = await self.api.write("POST", path_of(OWNER, self.key.namespace), body)
        mine = self._moved(owner["metadata"]["uid"])
        await cluster.write_status(owner, mine["status"])
        for child in mine["children"]:
            await cluster.apply(stamped(unstamped(child)))
        for name, size in mine["sizes"].items():
            await cluster.scale(DEPLOYMENT, Key(self.key.namespace, name), size)
        await eventually(lambda: self._pods_ready(cluster, mine), 60)
        for pod in (await cluster.observe(self.key)).world.pods:
            if pod.revision in mine["splits"]:
                split = mine["splits"][pod.revision]
                await cluster.annotate_pod(Key(self.key.namespace, pod.name), SPLIT_ANNOTATION, split)

    def _moved(self, uid: str) -> Object:
        """With the uid and the namespace of today; salts begin with the uid's first part."""
        text = json.dumps(self.recorded).replace(self.recorded["uid"], uid)
        text = text.replace(self.recorded["uid"][:8], uid[:8])
        text = text.replace(f'"namespace": "{self._namespace}"', f'"namespace": "{self.key.namespace}"')
        moved: Object = json.loads(text)
        return moved

    @property
    def _namespace(self) -> str:
        namespace: str = self.recorded["children"][0]["metadata"]["namespace"]
        return namespace

    async def _pods_ready(self, cluster: KubeCluster, mine: Object) -> bool:
        world = (await cluster.observe(self.key)).world
        revisions = {mine["status"]["stable"]["revision"], mine["status"]["candidate"]["revision"]}
        return (
            all(
                world.ready(revision) == world.workloads[revision].replicas == len(world.pods_of(revision))
                for revision in revisions
            )
            and world.ready(mine["status"]["stable"]["revision"]) >= mine["spec"]["scaling"]["minReplicas"]
        )

    async def children(self) -> dict[str, Any]:
        """What the operator may write of each child, and which version of it that is where nobody else writes it."""
        found = {}
        for kind in CHILD_KINDS:
            listed = await self.api.read(path_of(kind, self.key.namespace))
            for item in listed["items"]:
                metadata = item["metadata"]
                ours = [e["fieldsV1"] for e in metadata["managedFields"] if e["manager"] == "modelramp-operator"]
                version = metadata["resourceVersion"] if kind.kind in ("ControllerRevision", "Service") else ""
                name = f"{kind.kind}/{metadata['name']}"
                found[name] = (version, metadata["labels"], item.get("spec"), item.get("data"), ours)
        return found


@pytest.fixture
async def installation(admin: KubeApi, namespace: str, request: pytest.FixtureRequest) -> AsyncIterator[Installation]:
    """The CRD is that of the release; in the end it is today's again."""
    recorded = record(request.param)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(recorded["crd"]))
    yield Installation(admin, Key(namespace, "digits"), recorded)
    upgrade()


def upgrade() -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    kubectl("wait", "--for=condition=Established", "crd/modeldeployments.modelramp.dev", "--timeout=30s")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("installation", RECORDS, ids=lambda path: path.stem, indirect=True)
async def test_an_upgrade_changes_no_child_and_the_rollout_goes_on(
    installation: Installation, api: KubeApi, cache: Cache, admin: KubeApi, namespace: str
) -> None:
    clock = VirtualClock(start=datetime.fromisoformat(installation.recorded["now"]))
    async with StandInNode(admin, namespace).running():
        engine = EngineHere(api, cache, installation.key, "localhost/server:2", clock, step=0.1)
        engine.answers.alias = 4
        await installation.restore(engine.cluster)
        upgrade()
        before, writes = await installation.children(), []
        api.count_writes(lambda verb, resource: writes.append(resource))
        for _ in range(10):
            await engine.turn()
        assert await installation.children() == before
        assert set(writes) <= {"modeldeployments/status", "pods"}, "the split may be renewed"
        owner = await admin.read(path_of(OWNER, *installation.key))
        was, is_now = installation.recorded["status"], owner["status"]
        assert (is_now["phase"], is_now["reason"]) == (was["phase"], was["reason"])
        for part in ("history", "rejected", "former"):
            assert is_now[part] == was[part]
        assert is_now["candidate"]["attempt"] == was["candidate"]["attempt"]
        await command(admin, installation.key, "resume", was["candidate"]["revision"], 7)
        engine.step = 2.0
        await engine.until(serves(4))


def test_there_is_a_record() -> None:
    assert RECORDS, "python -m tests.integration.record_release"
    assert yaml.safe_load(CRD.read_text())["metadata"]["name"] == record(RECORDS[0])["crd"]["metadata"]["name"]
    assert record(RECORDS[-1])["spec"] == SPEC
