"""Makes the world hold what project() says: apply what differs, size, split, delete what is left over.

A settled object costs no write: a body is applied again only if it, or the child it made, has changed since. The child
is compared by a fingerprint without what others rightly write (status, sizes, bookkeeping). After a restart each child
is applied once, which changes nothing.
"""

import hashlib
import json
from typing import Any

from modelramp.desired.meta import REVISION_LABEL, SPLIT_ANNOTATION, Owner
from modelramp.desired.project import Desired
from modelramp.ports import Cluster, Key, Kind, Object, Observation

DEPLOYMENT = Kind("apps/v1", "Deployment")
Child = tuple[Kind, str]


class Carrier:
    """Remembers, per child, what was last applied and what that made."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._applied: dict[tuple[str, Kind, str], tuple[str, str]] = {}

    async def carry_out(self, owner: Owner, desired: Desired, seen: Observation) -> None:
        """In an order that is safe to be cut off at any point. Raises Conflict, ClusterError."""
        present = {(kind, name_of(child)): child for kind, children in seen.children.items() for child in children}
        made = await self._apply(owner, desired, present)
        await self._size(owner, desired, made)
        for pod, split in desired.splits.items():
            await self._cluster.annotate_pod(Key(owner.namespace, pod), SPLIT_ANNOTATION, split)
        await self._delete_leftovers(owner, made, present, seen.world.selected)

    def forget(self, uid: str) -> None:
        """The owner is gone."""
        self._applied = {child: memory for child, memory in self._applied.items() if child[0] != uid}

    async def _apply(self, owner: Owner, desired: Desired, present: dict[Child, Object]) -> dict[Child, Object]:
        made = {}
        for body in desired.objects:
            kind, name = Kind(body["apiVersion"], body["kind"]), name_of(body)
            memory, wanted = (owner.uid, kind, name), digest(body)
            child = present.get((kind, name))
            if child is None or self._applied.get(memory) != (wanted, fingerprint(child)):
                child = await self._cluster.apply(body)
                self._applied[memory] = (wanted, fingerprint(child))
            made[kind, name] = child
        return made

    async def _size(self, owner: Owner, desired: Desired, made: dict[Child, Object]) -> None:
        for revision, replicas in desired.sizes.items():
            name = owner.child(revision)
            child = made.get((DEPLOYMENT, name))
            if child is not None and child["spec"].get("replicas", 1) != replicas:
                await self._cluster.scale(DEPLOYMENT, Key(owner.namespace, name), replicas)

    async def _delete_leftovers(
        self, owner: Owner, made: dict[Child, Object], present: dict[Child, Object], selected: str | None
    ) -> None:
        for (kind, name), child in present.items():
            if (kind, name) in made or child["metadata"].get("deletionTimestamp"):
                continue
            if selected is not None and child["metadata"].get("labels", {}).get(REVISION_LABEL) == selected:
                continue  # what the main Service was seen to select is never deleted
            await self._cluster.delete(kind, Key(owner.namespace, name), child["metadata"]["uid"])
            self._applied.pop((owner.uid, kind, name), None)


def name_of(body: Object) -> str:
    return str(body["metadata"]["name"])


def digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def fingerprint(child: Object) -> str:
    """Changes when somebody changes what we own or might own, and not when a controller or autoscaler does its work."""
    metadata = without(child["metadata"], "resourceVersion", "managedFields", "generation", "annotations")
    annotations = without(child["metadata"].get("annotations", {}), "deployment.kubernetes.io/revision")
    rest = without(child, "status", "metadata", "spec")
    spec = without(child.get("spec", {}), *(("replicas",) if child["kind"] == DEPLOYMENT.kind else ()))
    return digest([metadata, annotations, rest, spec])


def without(mapping: Object, *fields: str) -> Object:
    return {field: value for field, value in mapping.items() if field not in fields}
