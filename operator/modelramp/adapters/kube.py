"""The Cluster port on a real API server. Every write first asks whether this process may still write."""

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from modelramp.adapters.cache import POD, Cache
from modelramp.adapters.kube_api import APPLY_PATCH, FIELD_MANAGER, MERGE_PATCH, KubeApi, path_of
from modelramp.adapters.observe import OWNER, observe
from modelramp.domain.world import Event
from modelramp.engine.echo import Echo
from modelramp.ports import Clock, ClusterError, Conflict, Key, Kind, Object, Observation

logger = logging.getLogger(__name__)

EVENT = Kind("v1", "Event")
LONGEST_MESSAGE = 1024  # the API server's limit for an Event


class KubeCluster:
    """``may_write`` is called before each write and raises if this process has lost its lease."""

    def __init__(
        self, api: KubeApi, cache: Cache, clock: Clock, may_write: Callable[[], None], echo: Echo | None = None
    ) -> None:
        self._api = api
        self._cache = cache
        self._echo = echo or Echo(clock)
        self._clock = clock
        self._may_write = may_write
        self._last_told: dict[str, datetime] = {}

    async def observe(self, key: Key) -> Observation:
        seen = await observe(self._api, self._cache, key)
        if seen.owner is None:
            self._echo.heard(key)  # what is gone comes back no more
        return seen

    async def write_status(self, owner: Object, status: Object) -> Object:
        metadata = owner["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        self._echo.expect(key)
        changed = False
        try:
            stored = await self._write("PUT", path_of(OWNER, *key, "status"), {**owner, "status": status})
            changed = stored["metadata"]["resourceVersion"] != metadata["resourceVersion"]
            return stored
        finally:
            if not changed:
                self._echo.heard(key)

    async def apply(self, body: Object) -> Object:
        metadata, kind = body["metadata"], Kind(body["apiVersion"], body["kind"])
        path = path_of(kind, metadata["namespace"], metadata["name"])
        return self._wrote(kind, await self._write("PATCH", path, body, APPLY_PATCH, force=True))

    async def scale(self, kind: Kind, key: Key, replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        self._wrote(kind, await self._write("PATCH", path_of(kind, *key, "scale"), body, MERGE_PATCH))

    async def annotate_pod(self, key: Key, annotation: str, value: str) -> None:
        body = {"metadata": {"annotations": {annotation: value}}}
        try:
            self._wrote(POD, await self._write("PATCH", path_of(POD, *key), body, MERGE_PATCH))
        except ClusterError as error:
            if error.status != 404:  # a pod that is gone needs no split
                raise

    async def delete(self, kind: Kind, key: Key, uid: str) -> None:
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        self._may_write()
        try:
            await self._api.write("DELETE", path_of(kind, *key), options)
        except ClusterError as error:
            if error.status != 404:
                raise
        self._cache.deleted(kind, key, uid)

    async def emit(self, owner: Object, event: Event) -> None:
        body = event_object(owner, event, self._moment(owner["metadata"]["uid"]))
        try:
            await self._record(body)
        except (ClusterError, Conflict) as error:
            logger.warning("event %s not recorded: %s", event.reason, error)

    def _moment(self, uid: str) -> datetime:
        """Now, but a second later than the object's Event before: they are dated in whole seconds, and sorted by that
        alone; a story is to be told in order."""
        now = self._clock.now().replace(microsecond=0)
        recent = {told: at for told, at in self._last_told.items() if at >= now}
        moment = max(now, recent[uid] + timedelta(seconds=1)) if uid in recent else now
        self._last_told = recent | {uid: moment}
        return moment

    async def _record(self, body: Object) -> None:
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        try:
            await self._write("POST", path_of(EVENT, namespace), body)
            return
        except Conflict:
            path = path_of(EVENT, namespace, name)
        recorded = await self._api.read(path)
        seen_again = {"count": recorded.get("count", 1) + 1, "lastTimestamp": body["lastTimestamp"]}
        await self._write("PATCH", path, seen_again, MERGE_PATCH)

    def _wrote(self, kind: Kind, stored: Object) -> Object:
        """A Scale carries the resourceVersion of what it scales."""
        self._cache.wrote(kind, stored["metadata"]["namespace"], stored["metadata"]["resourceVersion"])
        return stored

    async def _write(
        self, method: str, path: str, body: Object, content_type: str = "application/json", *, force: bool = False
    ) -> Object:
        self._may_write()
        query = {"fieldManager": FIELD_MANAGER} | ({"force": "true"} if force else {})
        return await self._api.write(method, path, body, content_type, query)


def event_object(owner: Object, event: Event, moment: datetime) -> Object:
    """A core/v1 Event about ``owner``, named by what it says: the same said twice is the same Event."""
    metadata = owner["metadata"]
    message = event.message[:LONGEST_MESSAGE]
    said = "\0".join((metadata["uid"], event.type, event.reason, message))
    regarding = {field: metadata[field] for field in ("name", "namespace", "uid")}
    seconds = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {"apiVersion": owner["apiVersion"], "kind": owner["kind"], **regarding},
        "type": event.type,
        "reason": event.reason,
        "message": message,
        "count": 1,
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": FIELD_MANAGER,
    }
