"""What one pass sees: the ModelDeployment, what carries its label, and proof that it is its own.

The ModelDeployment is read from the API server, since its status decides what happens next; the rest from the cache.

A label is a claim that anybody may make; the chain of controller ownerReferences is what counts. Children without any
controller are reported too if they say that Modelramp manages them: that is what ``kubectl delete --cascade=orphan``
leaves, and they are adopted. Pods are reached through ReplicaSets, of which only metadata is read.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace

from modelramp.adapters import translate
from modelramp.adapters.cache import POD, REPLICA_SET, Cache
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.translate import DEPLOYMENT, SERVICE
from modelramp.api import API_VERSION, KIND, PLURAL
from modelramp.desired.meta import MANAGED_BY
from modelramp.ports import CHILD_KINDS, Key, Kind, Object, Observation

OWNER = Kind(API_VERSION, KIND)
PAGE = 500


async def observe(api: KubeApi, cache: Cache, key: Key) -> Observation:
    """Whatever this process has written is in it. Raises ClusterError."""
    await cache.catch_up(key.namespace)
    owner, namesake = await asyncio.gather(api.find(path_of(OWNER, *key)), _namesake(api, cache, key))
    if owner is None:
        return Observation(owner=None)
    uid = owner["metadata"]["uid"]
    children = {kind: [it for it in cache.objects(kind, key) if _is_child(it, uid)] for kind in CHILD_KINDS}
    replica_sets = _controlled(cache.objects(REPLICA_SET, key), children[DEPLOYMENT])
    pods = _controlled(cache.objects(POD, key), replica_sets)
    return Observation(
        owner=owner,
        world=replace(translate.world(key.name, children, pods), foreign=_foreign(namesake, children[SERVICE])),
        children=children,
    )


async def _namesake(api: KubeApi, cache: Cache, key: Key) -> Object | None:
    """The Service that has the main Service's name. Only those with the label are in the cache."""
    known = (it for it in cache.objects(SERVICE, key) if it["metadata"]["name"] == key.name)
    return next(known, None) or await api.find(path_of(SERVICE, *key))


async def all_owners(api: KubeApi, namespaces: Sequence[str]) -> AsyncIterator[Object]:
    """Every ModelDeployment of some namespaces (none named: all), page by page. Raises ClusterError."""
    paths = [path_of(OWNER, namespace) for namespace in namespaces] or [f"/apis/{API_VERSION}/{PLURAL}"]
    for path in paths:
        query = {"limit": str(PAGE)}
        while True:
            answer = await api.read(path, query)
            for item in answer["items"]:
                yield item
            token = answer["metadata"].get("continue")
            if not token:
                break
            query = {"limit": str(PAGE), "continue": token}


def _is_child(child: Object, owner_uid: str) -> bool:
    controller = controller_uid(child)
    if controller is None:
        labels = child["metadata"].get("labels", {})
        return all(labels.get(name) == value for name, value in MANAGED_BY.items())
    return controller == owner_uid


def _controlled(things: Iterable[Object], controllers: Iterable[Object]) -> list[Object]:
    uids = {controller["metadata"]["uid"] for controller in controllers}
    return [thing for thing in things if controller_uid(thing) in uids]


def _foreign(service: Object | None, services: Sequence[Object]) -> str:
    """The Service that stands where the main Service should, and is somebody else's."""
    if service is None or any(s["metadata"]["uid"] == service["metadata"]["uid"] for s in services):
        return ""
    return f"Service {service['metadata']['name']}"


def controller_uid(child: Object) -> str | None:
    """The uid of the object that controls this one, if any."""
    for reference in child["metadata"].get("ownerReferences", ()):
        if reference.get("controller"):
            return str(reference["uid"])
    return None
