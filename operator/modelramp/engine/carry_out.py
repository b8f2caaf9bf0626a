"""Makes the world hold what project() says: apply what differs, size, split, delete what is left over.

A settled object costs no write, nor does a restart. A child carries a digest of the body that made it; while that body
is wanted, and every field of it stands, there is nothing to do. Where the API server stores a field in words of its
own (quantities), memory helps: what the last application made, without what others rightly write.
"""

import hashlib
import json
from collections.abc import Iterable, Set
from typing import Any

from modelramp.desired.meta import APPLIED_ANNOTATION, REVISION_LABEL, SPLIT_ANNOTATION, Owner
from modelramp.desired.project import Desired
from modelramp.ports import Cluster, Key, Kind, Object, Observation
from modelramp.routers import KINDS

DEPLOYMENT = Kind("apps/v1", "Deployment")
SERVICE = Kind("v1", "Service")
Child = tuple[Kind, str]
ENCODER = json.JSONEncoder(sort_keys=True, check_circular=False)
WHOLE = {Kind(route.api_version, route.kind): route.whole for route in KINDS}


class Carrier:
    """Remembers, per child, what was last applied and what that made."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._applied: dict[tuple[str, Kind, str], tuple[str, str]] = {}

    async def carry_out(self, owner: Owner, desired: Desired, seen: Observation) -> None:
        """In an order that is safe to be cut off at any point. Raises Conflict, ClusterError."""
        present = {(kind, name_of(child)): child for kind, children in seen.children.items() for child in children}
        taken = {(SERVICE, name_of(service)): service for service in seen.services}
        made = await self._apply(owner, desired, present | taken)
        await self.give_back(desired.returned)
        await self._size(owner, desired, made)
        for pod, split in desired.splits.items():
            await self._cluster.annotate_pod(Key(owner.namespace, pod), SPLIT_ANNOTATION, split)
        selected = {seen.world.selected, *(service.selected for service in seen.world.services)}
        await self._delete_leftovers(owner, made, present, selected - {None, ""})

    async def give_back(self, bodies: Iterable[Object]) -> None:
        """What was taken over becomes what it was. Raises Conflict, ClusterError."""
        for body in bodies:
            await self._cluster.apply(body)

    def forget(self, uid: str) -> None:
        """The owner is gone."""
        self._applied = {child: memory for child, memory in self._applied.items() if child[0] != uid}

    async def _apply(self, owner: Owner, desired: Desired, present: dict[Child, Object]) -> dict[Child, Object]:
        made = {}
        for body in desired.objects:
            kind, name = Kind(body["apiVersion"], body["kind"]), name_of(body)
            memory, wanted = (owner.uid, kind, name), stamped(body)
            child = present.get((kind, name))
            if child is None or not (fits(wanted, child) or self._applied.get(memory) == trace(wanted, child)):
                child = await self._cluster.apply(wanted)
                self._applied[memory] = trace(wanted, child)
            made[kind, name] = child
        return made

    async def _size(self, owner: Owner, desired: Desired, made: dict[Child, Object]) -> None:
        for revision, replicas in desired.sizes.items():
            name = owner.child(revision)
            child = made.get((DEPLOYMENT, name))
            if child is not None and child["spec"].get("replicas", 1) != replicas:
                await self._cluster.scale(DEPLOYMENT, Key(owner.namespace, name), replicas)

    async def _delete_leftovers(
        self, owner: Owner, made: dict[Child, Object], present: dict[Child, Object], selected: Set[str | None]
    ) -> None:
        for (kind, name), child in present.items():
            if (kind, name) in made or child["metadata"].get("deletionTimestamp"):
                continue
            if child["metadata"].get("labels", {}).get(REVISION_LABEL) in selected:
                continue  # what a Service with clients was seen to select is never deleted
            await self._cluster.delete(kind, Key(owner.namespace, name), child["metadata"]["uid"])
            self._applied.pop((owner.uid, kind, name), None)


def name_of(body: Object) -> str:
    return str(body["metadata"]["name"])


def stamped(body: Object) -> Object:
    """The body with its own digest: a child that carries it was made of this very body, and owns no other fields."""
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_ANNOTATION: digest(body)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def fits(wanted: Object, found: Object) -> bool:
    """Whether nothing is to be applied. A selector must be the very one: a key too many, and it selects nothing. Where
    all is ours, nothing may be added."""
    selectors = [body.get("spec", {}).get("selector") for body in (wanted, found)]
    whole = WHOLE.get(Kind(wanted["apiVersion"], wanted["kind"]))
    same = whole is None or wanted["spec"][whole] == found["spec"][whole]
    return same and selectors[0] == selectors[1] and stands(wanted, found)


def stands(wanted: Any, found: Any) -> bool:
    """Whether everything that is wanted is there; mappings may hold more, lists may not. The API server leaves out what
    is an empty string."""
    if wanted == found:
        return True
    match wanted, found:
        case dict(), dict():
            return all(stands(value, found.get(key, "")) for key, value in wanted.items())
        case list(), list():
            return len(wanted) == len(found) and all(map(stands, wanted, found))
    return False


def trace(wanted: Object, child: Object) -> tuple[str, str]:
    return digest(wanted), fingerprint(child)


def digest(value: Any) -> str:
    return hashlib.blake2b(ENCODER.encode(value).encode(), digest_size=16).hexdigest()


def fingerprint(child: Object) -> str:
    """Changes when somebody changes what we own or might own, and not when a controller or autoscaler does its work."""
    metadata = without(child["metadata"], "resourceVersion", "managedFields", "generation", "annotations")
    annotations = without(child["metadata"].get("annotations", {}), "deployment.kubernetes.io/revision")
    rest = without(child, "status", "metadata", "spec")
    spec = without(child.get("spec", {}), *(("replicas",) if child["kind"] == DEPLOYMENT.kind else ()))
    return digest([metadata, annotations, rest, spec])


def without(mapping: Object, *fields: str) -> Object:
    return {field: value for field, value in mapping.items() if field not in fields}
