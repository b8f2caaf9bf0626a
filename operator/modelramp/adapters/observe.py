"""One pass's reads: the ModelDeployment, what carries its label, and proof that it is its own.

A label is a claim that anybody may make; the chain of controller ownerReferences is what counts. Children without any
controller are reported too if they say that Modelramp manages them: that is what ``kubectl delete --cascade=orphan``
leaves, and they are adopted. Pods are reached through ReplicaSets, of which only metadata is read.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

from modelramp.adapters import other_services, translate
from modelramp.adapters.kube_api import METADATA_LIST, KubeApi, path_of
from modelramp.adapters.routes import about, labelled, routes
from modelramp.adapters.translate import DEPLOYMENT, SERVICE
from modelramp.api import API_VERSION, KIND, PLURAL
from modelramp.desired.meta import MANAGED_BY
from modelramp.domain.world import World
from modelramp.ports import CHILD_KINDS, Key, Kind, Object, Observation

OWNER = Kind(API_VERSION, KIND)
POD = Kind("v1", "Pod")
REPLICA_SET = Kind("apps/v1", "ReplicaSet")
PAGE = 500
JSON = "application/json"


async def observe(api: KubeApi, key: Key) -> Observation:
    """Reads everything at once; each list is as new as the API server has it. Raises ClusterError."""
    kinds = (*CHILD_KINDS, POD, REPLICA_SET)
    (owner, namesake), lists, (routed, unusable) = await asyncio.gather(
        asyncio.gather(api.find(path_of(OWNER, *key)), api.find(path_of(SERVICE, *key))),
        asyncio.gather(*(labelled(api, kind, key, METADATA_LIST if kind == REPLICA_SET else JSON) for kind in kinds)),
        routes(api, key),
    )
    found = dict(zip(kinds, lists, strict=True))
    services = await _others(api, key, owner, found)
    others = tuple(other_services.other_service(service, key.name) for service in services)
    if owner is None:
        return Observation(owner=None, world=World(services=others), services=services)
    uid = owner["metadata"]["uid"]
    children = {kind: [child for child in found[kind] if _is_child(child, uid)] for kind in CHILD_KINDS}
    replica_sets = _controlled(found[REPLICA_SET], children[DEPLOYMENT])
    pods = _controlled(found[POD], replica_sets)
    own_routes = {kind: [route for route in listed if _is_child(route, uid)] for kind, listed in routed.items()}
    ours = [route for listed in own_routes.values() for route in listed]
    taken, slices = await about(api, owner, key, ours) if not unusable else ({}, [])
    world = replace(
        translate.world(key.name, children, pods),
        foreign=_foreign(namesake, children[SERVICE]),
        routes=tuple(ours),
        unusable=unusable | taken,
        endpoints=translate.endpoints(_controlled(slices, children[SERVICE])),
        services=others,
    )
    return Observation(owner, world, children | own_routes, services)


async def _others(api: KubeApi, key: Key, owner: Object | None, found: Mapping[Kind, Sequence[Object]]) -> list[Object]:
    """Services that are to be taken over, or have been; none where the owner goes and its pods stay."""
    going = owner is None or "deletionTimestamp" in owner["metadata"]
    if going and other_services.stays(owner, found[DEPLOYMENT]):
        return []
    services = [service for service in found[SERVICE] if other_services.is_taken(service, key.name)]
    wanted = "" if going else other_services.wanted(owner)
    if wanted and all(service["metadata"]["name"] != wanted for service in services):
        named = await api.find(path_of(SERVICE, key.namespace, wanted))
        services += [named] if named else []
    return services


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
