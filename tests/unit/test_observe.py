"""What a pass sees where the copies of the children are older than the ModelDeployment: after an orphaning delete, of
which a watch has not told yet."""

from collections.abc import Mapping
from typing import Any

import pytest

from modelramp.adapters.cache import POD, REPLICA_SET, Cache
from modelramp.adapters.observe import observe
from modelramp.adapters.translate import CONTROLLER_REVISION, DEPLOYMENT, SERVICE
from modelramp.ports import Object
from tests.unit.test_cache import KEY, FakeServer, copying, path_of

REVISION = "fc2467bb"
SELECTOR = {"modelramp.dev/name": KEY.name, "modelramp.dev/revision": REVISION}


class Server(FakeServer):
    """With a ModelDeployment, or none."""

    owner: Object | None = None

    async def read(self, path: str, query: Mapping[str, str], accept: str = "") -> Object:
        return await super().read(path.replace("/namespaces/shop", ""), {**query}, accept)

    async def find(self, path: str) -> Object | None:
        kind, name = path.replace("/namespaces/shop", "").rsplit("/", 1)
        return self.owner if kind.endswith("modeldeployments") else self.bodies[kind].get(name)

    def keep(self, uid: str) -> None:
        """Children of an owner with this uid, or orphans; no watch tells of them."""
        reference = [{"kind": "ModelDeployment", "uid": uid, "controller": True}] if uid else []
        model = {"registry": "default", "name": "digits", "version": 1}
        self.put(CONTROLLER_REVISION, "r", data={"hash": REVISION, "model": model, "template": {}})
        self.put(DEPLOYMENT, "d", spec={"replicas": 2})
        self.put(SERVICE, KEY.name, spec={"selector": SELECTOR, "ports": [{"port": 80}]})
        for kind, name in ((CONTROLLER_REVISION, "r"), (DEPLOYMENT, "d"), (SERVICE, KEY.name)):
            metadata = self.bodies[path_of(kind)][name]["metadata"]
            metadata["ownerReferences"] = reference
            metadata["labels"]["app.kubernetes.io/managed-by"] = "modelramp"


def created(uid: str) -> Object:
    metadata = {"namespace": "shop", "name": KEY.name, "uid": uid, "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"model": {"name": "digits", "alias": "prod"}}}


async def seen(server: Server, cache: Cache) -> Any:
    return await observe(server, cache, KEY)  # type: ignore[arg-type]


async def test_orphans_are_found_by_the_object_created_again() -> None:
    server = Server()
    server.keep("first")
    async with copying(server) as (cache, _):
        server.keep("")
        server.owner = created("second")
        found = await seen(server, cache)
        assert found.world.selected == REVISION and REVISION in found.world.revisions
        assert found.world.foreign == "", "what serves is its own"


async def test_the_children_of_an_object_of_the_same_name_are_not_its_own() -> None:
    server = Server()
    server.keep("first")
    async with copying(server) as (cache, _):
        server.owner = created("second")
        found = await seen(server, cache)
        assert found.world.selected is None and not found.world.revisions
        assert found.world.foreign == f"Service {KEY.name}"


@pytest.mark.parametrize("orphaned", [True, False])
async def test_a_service_that_was_taken_over_stays_with_pods_that_stay(orphaned: bool) -> None:
    server = Server()
    server.keep("first")
    server.put(SERVICE, "old", spec={"selector": SELECTOR, "ports": [{"port": 80}]})
    server.bodies[path_of(SERVICE)]["old"]["metadata"]["annotations"] = {
        "modelramp.dev/adopted-by": KEY.name,
        "modelramp.dev/before-adoption": '{"selector":{"app":"old"},"targetPort":80}',
    }
    async with copying(server) as (cache, _):
        if orphaned:
            server.keep("")
        assert [service.name for service in (await seen(server, cache)).world.services] == ([] if orphaned else ["old"])


async def test_a_stable_that_seems_down_beside_a_candidate_is_looked_at_anew() -> None:
    """A candidate stands in for it, unproven: a watch that has died must not lead to that."""
    server = Server()
    server.keep("first")
    server.put(REPLICA_SET, "rs")
    server.put(POD, "p", status=readiness("False"))
    pod = server.bodies[path_of(POD)]["p"]
    pod["metadata"]["labels"] |= SELECTOR
    for child, parent in ((pod, "rs"), (server.bodies[path_of(REPLICA_SET)]["rs"], "d")):
        child["metadata"]["ownerReferences"] = [{"uid": parent, "controller": True}]
    async with copying(server) as (cache, _):
        pod["status"] = readiness("True")
        server.owner = created("first") | {"status": {"stable": {"revision": REVISION}}}
        assert (await seen(server, cache)).world.ready(REVISION) == 0
        server.owner["status"]["candidate"] = {"revision": "626794a2"}
        assert (await seen(server, cache)).world.ready(REVISION) == 1


def readiness(status: str) -> Object:
    return {"conditions": [{"type": "Ready", "status": status}]}
