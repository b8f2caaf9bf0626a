"""A copy of one collection of the API server, kept by list and watch: what client-go calls a reflector and its store.

It knows up to which resourceVersion it is a true copy. These are numbers that grow with every write of a collection
(KEP-5504 says so for all API servers; those on etcd always did), and a watch tells its events in their order.
"""

import asyncio
import json
import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modelramp.adapters.kube_api import KubeApi
from modelramp.desired.meta import NAME_LABEL
from modelramp.ports import ClusterError, Key, Kind, Object

logger = logging.getLogger(__name__)

PAGE = 500
EXPIRED, FORBIDDEN, MISSING = 410, 403, 404
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.5, 30.0
FASTEST = 1  # of zlib's levels
PAUSE = 0.1  # before the next watch, once the server has ended one
JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"

Trim = Callable[[Object], Object]
Name = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as compressed text: little memory beside its parsed form, and nobody can change it by accident."""

    uid: str
    version: int
    deleting: bool
    owner: Key
    text: bytes


@dataclass(frozen=True)
class Collection:
    """What is copied: one kind, of one namespace or of all, of it what carries the name label."""

    kind: Kind
    path: str
    trim: Trim
    metadata_only: bool = False
    optional: bool = False  # the cluster may lack the kind, or not let it be read: then there is nothing of it

    def accept(self, suffix: str) -> str:
        return METADATA.format(suffix) if self.metadata_only else JSON


class Reflector:
    """``wake`` is told whose objects have changed, from the first list on; ``appeared`` is called when an optional kind
    that was absent can be seen."""

    def __init__(
        self, api: KubeApi, collection: Collection, wake: Callable[[Key], None], appeared: Callable[[], None]
    ) -> None:
        self._api = api
        self._collection = collection
        self._wake = wake
        self._appeared = appeared
        self._stored: dict[Name, Stored] = {}
        self._of: defaultdict[Key, set[Name]] = defaultdict(set)
        self._position: int | None = None  # None: not listed yet, or not to be trusted
        self._stream: asyncio.Task[None] | None = None
        self._back_off = FIRST_BACK_OFF
        self._news = asyncio.Event()
        self.absent: ClusterError | None = None  # why nothing of an optional kind can be seen

    async def run(self) -> None:
        """Until cancelled. What goes wrong is logged and tried again."""
        while True:
            self._stream = asyncio.create_task(self._follow())
            try:
                await asyncio.wait([self._stream])
            finally:
                self._stream.cancel()
            error = None if self._stream.cancelled() else self._stream.exception()
            if isinstance(error, ClusterError):
                if self._collection.optional and error.status in (FORBIDDEN, MISSING):
                    self._be_absent(error)
                    await asyncio.sleep(LONGEST_BACK_OFF)
                elif error.status != EXPIRED:
                    logger.warning("%s; listing again in %.2g s", error, self._back_off)
                    await asyncio.sleep(self._back_off)
                    self._back_off = min(2 * self._back_off, LONGEST_BACK_OFF)
            elif error is not None:
                raise error

    def owners(self) -> list[Key]:
        return list(self._of)

    def objects(self, owner: Key) -> list[Object]:
        """The objects that name this owner in their label, each the caller's to change."""
        return [json.loads(zlib.decompress(self._stored[name].text)) for name in sorted(self._of.get(owner, ()))]

    def shows(self, version: int) -> bool:
        """Whether what was written at ``version`` can be seen."""
        return self.absent is not None or (self._position is not None and self._position >= version)

    def lacks(self, name: Name, uid: str) -> bool:
        """Whether a deletion can be seen: gone, being deleted, or another object by now."""
        found = self._stored.get(name)
        told = self.absent is not None or self._position is not None
        return told and (found is None or found.uid != uid or found.deleting)

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            await self._news.wait()

    def distrust(self) -> None:
        """Something that must be seen is not: all is listed anew, and until then nothing counts as shown."""
        if self._position is not None and self._stream is not None:
            self._position = None
            self._stream.cancel()

    async def _follow(self) -> None:
        version = await self._list()
        path, accept = self._collection.path, self._collection.accept("")
        while True:
            query = {"labelSelector": NAME_LABEL, "resourceVersion": version}
            async for event in self._api.watch(path, query, accept):
                version = self._take(event["type"], event["object"])
                self._back_off = FIRST_BACK_OFF
            await asyncio.sleep(PAUSE)

    async def _list(self) -> str:
        """Page by page, so that no more than a page is ever held parsed."""
        found: dict[Name, Stored] = {}
        query = {"labelSelector": NAME_LABEL, "limit": str(PAGE)}
        while True:
            page = await self._api.read(self._collection.path, query, self._collection.accept("List"))
            found |= {name_of(item): self._stored_form(item) for item in page["items"] or ()}
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        was_absent, self.absent = self.absent is not None, None
        self._replace(found)
        self._move(metadata["resourceVersion"])
        if was_absent:
            self._appeared()
        return str(metadata["resourceVersion"])

    def _replace(self, found: dict[Name, Stored]) -> None:
        before, self._stored = self._stored, found
        self._of.clear()
        for name, stored in found.items():
            self._of[stored.owner].add(name)
        changed = {it.owner for name, it in before.items() if name not in found}
        changed |= {it.owner for name, it in found.items() if name not in before or before[name].version != it.version}
        self._wake_all(changed)

    def _be_absent(self, error: ClusterError) -> None:
        self.absent = error
        self._replace({})
        self._news.set()
        self._news.clear()

    def _take(self, event: str, body: Object) -> str:
        """One event; the resourceVersion to go on from. Raises ClusterError for one that is an error."""
        if event == "ERROR":
            raise ClusterError(f"WATCH {self._collection.path}: {body.get('message')}", status=body.get("code"))
        version = str(body["metadata"]["resourceVersion"])
        if event != "BOOKMARK":
            name = name_of(body)
            before = self._stored.pop(name, None)
            if before is not None:
                self._of[before.owner].discard(name)
                if not self._of[before.owner]:
                    del self._of[before.owner]
            owners = {before.owner} if before is not None else set()
            if event != "DELETED":
                stored = self._stored[name] = self._stored_form(body)
                self._of[stored.owner].add(name)
                owners.add(stored.owner)
            self._wake_all(owners)
        self._move(version)
        return version

    def _stored_form(self, body: Object) -> Stored:
        metadata = body["metadata"]
        metadata.pop("managedFields", None)
        kind = self._collection.kind
        # Items of a list do not say what they are, and metadata says that it is that.
        trimmed = self._collection.trim({**body, "apiVersion": kind.api_version, "kind": kind.kind})
        return Stored(
            metadata["uid"],
            int(metadata["resourceVersion"]),
            "deletionTimestamp" in metadata,
            Key(metadata["namespace"], metadata["labels"][NAME_LABEL]),
            zlib.compress(json.dumps(trimmed, separators=(",", ":")).encode(), FASTEST),
        )

    def _move(self, version: str) -> None:
        self._position = int(version)
        self._news.set()
        self._news.clear()

    def _wake_all(self, owners: Iterable[Key]) -> None:
        for owner in owners:
            self._wake(owner)


def name_of(body: Object) -> Name:
    return body["metadata"]["namespace"], body["metadata"]["name"]
