"""The children of all ModelDeployments in memory: a pass asks the API server for none of them.

What this process wrote is always seen: a pass waits until the copies show it. What others wrote is seen a moment later,
and wakes the object then.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from modelramp.adapters.kube_api import KubeApi, everywhere, path_of
from modelramp.adapters.reflector import Collection, Name, Reflector, Trim
from modelramp.adapters.translate import DEPLOYMENT
from modelramp.ports import CHILD_KINDS, ROUTE_KINDS, ClusterError, Key, Kind, Object

POD = Kind("v1", "Pod")
REPLICA_SET = Kind("apps/v1", "ReplicaSet")
KINDS = (*CHILD_KINDS, POD, REPLICA_SET, *ROUTE_KINDS)
EVERYWHERE = ""
SHOWN_SECONDS = 10.0


class Cache:
    """Of some namespaces (none named: all). ``wake`` is told whose objects have changed; and all of them when a kind of
    route can be seen that could not, for those at rest may have waited for it."""

    def __init__(self, api: KubeApi, namespaces: Sequence[str], wake: Callable[[Key], None]) -> None:
        self._reflectors = {
            (kind, namespace): Reflector(api, collection(kind, namespace), wake, partial(self._wake_all, namespace))
            for kind in KINDS
            for namespace in (namespaces or [EVERYWHERE])
        }
        self._wake = wake
        self._clusterwide = not namespaces
        self._written: dict[Reflector, int] = {}
        self._deleted: dict[Reflector, set[tuple[Name, str]]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors.values():
                tasks.create_task(reflector.run())

    def objects(self, kind: Kind, owner: Key) -> list[Object]:
        """Those that carry the owner's name in the label, as of the last event; the caller's own copies."""
        return self._of(kind, owner.namespace).objects(owner)

    def absent(self, kind: Kind, owner: Key) -> ClusterError | None:
        """Why there are no routes of this kind: the cluster lacks it, or the operator may not read it."""
        return self._of(kind, owner.namespace).absent

    def wrote(self, kind: Kind, namespace: str, version: str) -> None:
        """This process has made something of it what it is at ``version``."""
        reflector = self._of(kind, namespace)
        self._written[reflector] = max(int(version), self._written.get(reflector, 0))

    def deleted(self, kind: Kind, name: Name, uid: str) -> None:
        """This process has deleted it."""
        self._deleted.setdefault(self._of(kind, name[0]), set()).add((name, uid))

    async def synced(self) -> None:
        """Everything has been listed."""
        for reflector in self._reflectors.values():
            await reflector.until(lambda it=reflector: it.shows(0))  # type: ignore[misc]

    async def catch_up(self, namespace: str) -> None:
        """Returns when all that this process wrote can be seen. Raises ClusterError if that takes too long."""
        late = [it for it in (self._of(kind, namespace) for kind in KINDS) if not self._shows_all(it)]
        try:
            async with asyncio.timeout(SHOWN_SECONDS):
                for reflector in late:
                    await reflector.until(lambda it=reflector: self._shows_all(it))  # type: ignore[misc]
        except TimeoutError as error:
            for reflector in late:
                if not self._shows_all(reflector):
                    reflector.distrust()
            raise ClusterError(f"the watches have not shown within {SHOWN_SECONDS:g} s what was written") from error

    def _shows_all(self, reflector: Reflector) -> bool:
        if not reflector.shows(self._written.get(reflector, 0)):
            return False
        unseen = {it for it in self._deleted.pop(reflector, ()) if not reflector.lacks(*it)}
        if unseen:
            self._deleted[reflector] = unseen
        return not unseen

    def _wake_all(self, namespace: str) -> None:
        beside = (it for (_, theirs), it in self._reflectors.items() if theirs == namespace)
        for owner in sorted({owner for reflector in beside for owner in reflector.owners()}):
            self._wake(owner)

    def _of(self, kind: Kind, namespace: str) -> Reflector:
        return self._reflectors[kind, EVERYWHERE if self._clusterwide else namespace]


def collection(kind: Kind, namespace: str) -> Collection:
    path = everywhere(kind) if namespace == EVERYWHERE else path_of(kind, namespace)
    return Collection(kind, path, TRIMS.get(kind, without_status), kind == REPLICA_SET, kind in ROUTE_KINDS)


def without_status(body: Object) -> Object:
    return {field: value for field, value in body.items() if field != "status"}


def without_spec(body: Object) -> Object:
    return {field: value for field, value in body.items() if field != "spec"}


def whole(body: Object) -> Object:
    return body


TRIMS: dict[Kind, Trim] = {POD: without_spec, DEPLOYMENT: whole, **dict.fromkeys(ROUTE_KINDS, whole)}
