"""What one pass sees: the ModelDeployment, what carries its label, and proof that it is its own.

The ModelDeployment is read from the API server, since its status decides what happens next; the rest from the cache,
but where a copy that is too old would do harm (``_doubtful``).

A label is a claim that anybody may make; the chain of controller ownerReferences is what counts. Children without any
controller are reported too if they say that Modelramp manages them: that is what ``kubectl delete --cascade=orphan``
leaves, and they are adopted. Pods are reached through ReplicaSets, of which only metadata is read.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

from modelramp.adapters import other_services, translate
from modelramp.adapters.cache import KINDS, POD, REPLICA_SET, Cache
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.routes import about, labelled, routes
from modelramp.adapters.translate import DEPLOYMENT, SERVICE
from modelramp.api import API_VERSION, KIND, PLURAL
from modelramp.desired.meta import MANAGED_BY
from modelramp.domain.world import World
from modelramp.ports import CHILD_KINDS, Key, Kind, Object, Observation

OWNER = Kind(API_VERSION, KIND)
PAGE = 500
COMMON = (*CHILD_KINDS, POD, REPLICA_SET)
"""Kinds that every cluster knows."""


async def observe(api: KubeApi, cache: Cache, key: Key) -> Observation:
    """Whatever this process has written is in it. Raises ClusterError."""
    await cache.catch_up(key.namespace)
    found = {kind: cache.objects(kind, key) for kind in KINDS}
    owner, namesake = await asyncio.gather(api.find(path_of(OWNER, *key)), _namesake(api, found[SERVICE], key))
    services = await _others(api, key, owner, found)
    others = tuple(other_services.other_service(service, key.name) for service in services)
    if owner is None:
        return Observation(owner=None, world=World(services=others), services=services)
    uid = owner["metadata"]["uid"]
    if _doubtful(owner, found):
        found = dict(zip(COMMON, await asyncio.gather(*(labelled(api, kind, key) for kind in COMMON)), strict=True))
    children = {kind: [child for child in found[kind] if _is_child(child, uid)] for kind in CHILD_KINDS}
    replica_sets = _controlled(found[REPLICA_SET], children[DEPLOYMENT])
    pods = _controlled(found[POD], replica_sets)
    routed, unusable = routes(cache, key)
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


def _doubtful(owner: Object, found: Mapping[Kind, Sequence[Object]]) -> bool:
    """Another owner's children may be orphans by now, and one of them what serves. And beside a candidate, which stands
    in for a stable without ready pods, none is believed to be so because of a watch that has died."""
    uid, status = owner["metadata"]["uid"], owner.get("status", {})
    if any(controller_uid(child) not in (None, uid) for kind in CHILD_KINDS for child in found[kind]):
        return True
    if not (status.get("stable") and status.get("candidate")):
        return False
    pods = map(translate.pod, found[POD])
    return not any(pod.ready and pod.revision == status["stable"]["revision"] for pod in pods)


async def _others(api: KubeApi, key: Key, owner: Object | None, found: Mapping[Kind, Sequence[Object]]) -> list[Object]:
    """Services that are to be taken over, or have been; none where the owner goes and its pods stay. Read anew, for the
    cache does not keep who has changed them."""
    going = owner is None or "deletionTimestamp" in owner["metadata"]
    names = {it["metadata"]["name"] for it in found[SERVICE] if other_services.is_taken(it, key.name)}
    if going and names and other_services.stays(owner, await labelled(api, DEPLOYMENT, key)):
        return []
    if not going and (wanted := other_services.wanted(owner)):
        names.add(wanted)
    read = await asyncio.gather(*(api.find(path_of(SERVICE, key.namespace, name)) for name in sorted(names)))
    return [service for service in read if service is not None]


async def _namesake(api: KubeApi, services: Sequence[Object], key: Key) -> Object | None:
    """The Service that has the main Service's name. Only those with the label are in the cache."""
    known = (it for it in services if it["metadata"]["name"] == key.name)
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
