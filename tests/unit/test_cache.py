"""The copies of the children: true as of a resourceVersion, and never older than this process's own writes."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from modelramp.adapters import cache as cache_module
from modelramp.adapters import reflector as reflector_module
from modelramp.adapters.cache import EVERYWHERE, KINDS, POD, Cache, collection
from modelramp.adapters.translate import CONTROLLER_REVISION, DEPLOYMENT, SERVICE
from modelramp.ports import ROUTE_KINDS, ClusterError, Key, Kind, Object

KEY = Key("shop", "digits")
PAGE = 2


class FakeServer:
    """The part of KubeApi that reflectors use: pages of a list, and a queue of events for each watch."""

    def __init__(self) -> None:
        self.version = 10
        self.bodies: defaultdict[str, dict[str, Object]] = defaultdict(dict)
        self.events: dict[str, asyncio.Queue[Any]] = {}
        self.lists: list[str] = []
        self.watched_from: list[str] = []
        self.refusals: list[ClusterError] = []
        self.lacking: set[str] = set()

    async def read(self, path: str, query: Mapping[str, str], accept: str) -> Object:
        if "continue" not in query:
            self.lists.append(path)
        if self.refusals:
            raise self.refusals.pop()
        if path in self.lacking:
            raise ClusterError("the server could not find the requested resource", status=404)
        start = int(query.get("continue", 0))
        bodies = list(self.bodies[path].values())
        more = {"continue": str(start + PAGE)} if start + PAGE < len(bodies) else {}
        items = [{field: value for field, value in b.items() if field != "kind"} for b in bodies[start : start + PAGE]]
        return {"metadata": {"resourceVersion": str(self.version), **more}, "items": items}

    async def watch(self, path: str, query: Mapping[str, str], accept: str) -> AsyncIterator[Object]:
        self.watched_from.append(query["resourceVersion"])
        queue = self.events[path] = asyncio.Queue()
        while True:
            event = await queue.get()
            if isinstance(event, Exception):
                raise event
            yield event

    def put(self, kind: Kind, name: str, **fields: Any) -> str:
        """Stores an object; the watch does not say so yet."""
        self.version += 1
        labels = {"modelramp.dev/name": fields.pop("owner", "digits")}
        metadata = {"namespace": "shop", "name": name, "uid": fields.pop("uid", name), "labels": labels}
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {**metadata, "resourceVersion": str(self.version), "managedFields": [{}]},
            **fields,
        }
        self.bodies[path_of(kind)][name] = body
        return str(self.version)

    def tell(self, kind: Kind, event: str, name: str) -> None:
        self.events[path_of(kind)].put_nowait({"type": event, "object": self.bodies[path_of(kind)][name]})

    def forget(self, kind: Kind, name: str, *, told: bool) -> None:
        self.version += 1
        self.bodies[path_of(kind)][name]["metadata"]["resourceVersion"] = str(self.version)
        if told:
            self.tell(kind, "DELETED", name)
        del self.bodies[path_of(kind)][name]


def path_of(kind: Kind) -> str:
    return collection(kind, EVERYWHERE).path


@asynccontextmanager
async def copying(server: FakeServer) -> AsyncIterator[tuple[Cache, list[Key]]]:
    """The cache, once it watches everything; and whom it has woken since."""
    woken: list[Key] = []
    cache = Cache(server, [], woken.append)  # type: ignore[arg-type]
    running = asyncio.create_task(cache.run())
    await until(lambda: len(server.events) == len(KINDS))
    woken.clear()
    try:
        yield cache, woken
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110, a fake server sets no event
            await asyncio.sleep(0)


def names(cache: Cache, kind: Kind, owner: Key = KEY) -> list[str]:
    return [it["metadata"]["name"] for it in cache.objects(kind, owner)]


async def test_what_was_there_is_listed_page_by_page() -> None:
    server = FakeServer()
    for number in range(2 * PAGE + 1):
        server.put(DEPLOYMENT, f"d-{number}", owner="digits" if number else "other")
    async with copying(server) as (cache, _):
        assert names(cache, DEPLOYMENT) == ["d-1", "d-2", "d-3", "d-4"]
        assert names(cache, DEPLOYMENT, Key("shop", "other")) == ["d-0"]
        assert cache.objects(DEPLOYMENT, KEY)[0]["kind"] == "Deployment"
        assert server.watched_from == [str(server.version)] * len(KINDS)


async def test_events_change_the_copy_and_wake_the_object() -> None:
    server = FakeServer()
    async with copying(server) as (cache, woken):
        server.put(SERVICE, "digits")
        server.tell(SERVICE, "ADDED", "digits")
        await until(lambda: woken == [KEY])
        assert names(cache, SERVICE) == ["digits"]
        server.put(SERVICE, "digits", owner="other")
        server.tell(SERVICE, "MODIFIED", "digits")
        await until(lambda: len(woken) == 3)
        assert {*woken} == {KEY, Key("shop", "other")}
        assert names(cache, SERVICE) == []
        server.forget(SERVICE, "digits", told=True)
        await until(lambda: len(woken) == 4)
        assert names(cache, SERVICE, Key("shop", "other")) == []


async def test_a_kind_that_the_cluster_lacks_holds_nothing_up_and_wakes_all_objects_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflector_module, "LONGEST_BACK_OFF", 0.01)
    (route,) = ROUTE_KINDS
    server = FakeServer()
    server.lacking = {path_of(route)}
    server.put(DEPLOYMENT, "other", owner="other")
    server.put(SERVICE, "other", owner="other")
    woken: list[Key] = []
    cache = Cache(server, [], woken.append)  # type: ignore[arg-type]
    running = asyncio.create_task(cache.run())
    async with asyncio.timeout(5):
        await cache.synced()
        await cache.catch_up("shop")
    error = cache.absent(route, KEY)
    assert error is not None
    assert error.status == 404
    woken.clear()
    server.lacking = set()
    server.put(route, "digits")
    await until(lambda: names(cache, route) == ["digits"])
    assert cache.absent(route, KEY) is None
    assert woken == [KEY, KEY, Key("shop", "other")], "for its route, and as one of all"
    running.cancel()
    await asyncio.wait([running])


async def test_a_pass_sees_what_this_process_has_written() -> None:
    server = FakeServer()
    async with copying(server) as (cache, _):
        cache.wrote(DEPLOYMENT, "shop", server.put(DEPLOYMENT, "d"))
        catching_up = asyncio.create_task(cache.catch_up("shop"))
        await asyncio.wait([catching_up], timeout=0.05)
        assert not catching_up.done()
        server.tell(DEPLOYMENT, "ADDED", "d")
        await catching_up
        assert names(cache, DEPLOYMENT) == ["d"]


async def test_a_bookmark_tells_that_a_write_changed_nothing_that_is_copied() -> None:
    server = FakeServer()
    async with copying(server) as (cache, _):
        cache.wrote(POD, "shop", "12")
        catching_up = asyncio.create_task(cache.catch_up("shop"))
        bookmark = {"kind": "Pod", "metadata": {"resourceVersion": "12"}}
        server.events[path_of(POD)].put_nowait({"type": "BOOKMARK", "object": bookmark})
        await catching_up


@pytest.mark.parametrize("ending", ["gone", "going", "made anew"])
async def test_a_pass_does_not_see_what_this_process_has_deleted(ending: str) -> None:
    server = FakeServer()
    server.put(SERVICE, "s", uid="first")
    async with copying(server) as (cache, _):
        cache.deleted(SERVICE, ("shop", "s"), "first")
        catching_up = asyncio.create_task(cache.catch_up("shop"))
        await asyncio.wait([catching_up], timeout=0.05)
        assert not catching_up.done()
        if ending == "gone":
            server.forget(SERVICE, "s", told=True)
        elif ending == "going":
            server.bodies[path_of(SERVICE)]["s"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            server.tell(SERVICE, "MODIFIED", "s")
        else:
            server.put(SERVICE, "s", uid="second")
            server.tell(SERVICE, "MODIFIED", "s")
        await catching_up


async def test_no_pass_before_everything_is_listed() -> None:
    server = FakeServer()
    server.refusals = [ClusterError("forbidden", status=403)]
    cache = Cache(server, [], lambda _: None)  # type: ignore[arg-type]
    running, early = asyncio.create_task(cache.run()), asyncio.create_task(cache.catch_up("shop"))
    await until(lambda: len(server.events) == len(KINDS) - 1)
    assert not early.done()
    await early  # the refused list is tried again
    running.cancel()
    await asyncio.wait([running])


async def test_a_watch_that_keeps_being_refused_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    server, pauses = FakeServer(), []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await real_sleep(0)

    async with copying(server):
        real_sleep = asyncio.sleep
        monkeypatch.setattr("modelramp.adapters.reflector.asyncio.sleep", pause)
        for expected in (0.5, 1.0, 2.0):
            server.events.pop(path_of(SERVICE)).put_nowait(ClusterError("WATCH: 403: forbidden", status=403))
            await until_listed(server, real_sleep)
            assert pauses[-1] == expected
        server.put(SERVICE, "s")
        server.tell(SERVICE, "ADDED", "s")
        server.events.pop(path_of(SERVICE)).put_nowait(ClusterError("WATCH: reset"))
        await until_listed(server, real_sleep)
        assert pauses[-1] == 0.5


async def until_listed(server: FakeServer, sleep: Callable[[float], Awaitable[None]]) -> None:
    async with asyncio.timeout(5):
        while path_of(SERVICE) not in server.events:
            await sleep(0)


async def test_after_410_all_is_listed_again_and_what_vanished_meanwhile_is_noticed() -> None:
    server = FakeServer()
    server.put(SERVICE, "stays")
    server.put(SERVICE, "goes", owner="other")
    async with copying(server) as (cache, woken):
        server.forget(SERVICE, "goes", told=False)
        gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
        server.events.pop(path_of(SERVICE)).put_nowait({"type": "ERROR", "object": gone})
        await until(lambda: path_of(SERVICE) in server.events)
        assert server.lists.count(path_of(SERVICE)) == 2
        assert woken == [Key("shop", "other")]
        assert names(cache, SERVICE) == ["stays"]


async def test_a_watch_that_does_not_show_a_write_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SHOWN_SECONDS", 0.01)
    server = FakeServer()
    async with copying(server) as (cache, _):
        cache.wrote(SERVICE, "shop", server.put(SERVICE, "unseen"))
        server.events.pop(path_of(SERVICE))  # a connection that nobody closed
        with pytest.raises(ClusterError, match="not shown"):
            await cache.catch_up("shop")
        await until(lambda: path_of(SERVICE) in server.events)
        await cache.catch_up("shop")
        assert names(cache, SERVICE) == ["unseen"]


async def test_what_a_pass_does_to_its_objects_stays_with_it() -> None:
    server = FakeServer()
    server.put(DEPLOYMENT, "d", spec={"replicas": 2})
    async with copying(server) as (cache, _):
        cache.objects(DEPLOYMENT, KEY)[0]["spec"]["replicas"] = 5
        assert cache.objects(DEPLOYMENT, KEY)[0]["spec"]["replicas"] == 2


async def test_only_what_is_looked_at_is_kept() -> None:
    server = FakeServer()
    for kind in (CONTROLLER_REVISION, DEPLOYMENT, SERVICE, POD):
        server.put(kind, "it", spec={"a": 1}, status={"b": 2}, data={"c": 3})
    async with copying(server) as (cache, _):
        kept = {kind: cache.objects(kind, KEY)[0] for kind in (CONTROLLER_REVISION, DEPLOYMENT, SERVICE, POD)}
    assert all("managedFields" not in body["metadata"] for body in kept.values())
    told = {kind.kind: [field for field in ("spec", "status", "data") if field in body] for kind, body in kept.items()}
    assert told == {
        "ControllerRevision": ["spec", "data"],
        "Deployment": ["spec", "status", "data"],
        "Service": ["spec", "data"],
        "Pod": ["status", "data"],
    }
