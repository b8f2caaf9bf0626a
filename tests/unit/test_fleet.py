"""Limits on rollouts at a time: who begins, who waits, and that nobody is forgotten or counted twice."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from modelramp.adapters.kube_api import KubeApi
from modelramp.adapters.observe import all_owners
from modelramp.api.status import Phase
from modelramp.domain.admission import ordinal
from modelramp.domain.fleet import Limits, Member, Place, in_line, places
from modelramp.domain.freeze import Freeze
from modelramp.engine.fleet import NEAR, Fleet
from modelramp.engine.reconcile import read_status
from modelramp.ports import Key, Object
from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld
from tests.unit.test_ready import kubeconfig

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMES = [Key("a", "one"), Key("a", "two"), Key("b", "three")]


def members(rolling: list[tuple[str, str]], waiting: list[tuple[str, str]]) -> dict[tuple[str, str], Member]:
    queued = {name: Member(queued_at=NOON + timedelta(seconds=i)) for i, name in enumerate(waiting)}
    return {name: Member(rolling=True) for name in rolling} | queued


@pytest.mark.parametrize(
    ("limits", "rolling", "waiting", "expected"),
    [
        (Limits(), [("a", "x")], [("a", "1")], [None]),
        (Limits(total=2), [("a", "x")], [("b", "1"), ("a", "2")], [None, Place(2, 2, "2")]),
        (Limits(total=1), [("a", "x")], [("b", "1"), ("a", "2")], [Place(1, 2, "1"), Place(2, 2, "1")]),
        (
            Limits(per_namespace=1),
            [("a", "x")],
            [("a", "1"), ("b", "2"), ("a", "3")],
            [Place(1, 2, "1 per namespace"), None, Place(2, 2, "1 per namespace")],
        ),
        (
            Limits(total=2, per_namespace=1),
            [("a", "x")],
            [("a", "1"), ("b", "2"), ("c", "3")],
            [Place(1, 1, "1 per namespace"), None, Place(3, 3, "2")],
        ),
        (Limits(per_namespace=1), [], [("a", "1"), ("a", "2")], [None, Place(2, 2, "1 per namespace")]),
    ],
)
def test_first_come_first_served(
    limits: Limits, rolling: list[Any], waiting: list[Any], expected: list[Place | None]
) -> None:
    fleet = members(rolling, waiting)
    assert in_line(fleet) == waiting
    assert list(places(fleet, in_line(fleet), limits).values()) == expected


def test_places_are_said_in_english() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 101, 111, 112)
    words = "1st 2nd 3rd 4th 11th 12th 13th 21st 101st 111th 112th"
    assert " ".join(map(ordinal, numbers)) == words


class Company:
    """Several objects, each with a world of its own, under one operator."""

    def __init__(self, limits: Limits, freezes: tuple[Freeze, ...] = ()) -> None:
        self.limits, self.freezes = limits, freezes
        self.worlds = {key: SimulatedWorld(SPEC, key=key) for key in NAMES}
        self.woken: list[Key] = []
        self.restart()

    def restart(self) -> None:
        self.fleet = Fleet(self.worlds[NAMES[0]], self.limits, self.freezes, self.wake)
        for key, world in self.worlds.items():
            if world.owner is not None:
                self.fleet.note(key, read_status(world.owner))
        self.operators = {key: Operator(world, fleet=self.fleet) for key, world in self.worlds.items()}

    def wake(self, key: Key) -> None:
        self.woken.append(key)
        self.operators[key]._wake(key)

    async def run(self, seconds: float) -> None:
        """Passes where they are due; at the end one of each object, so that all tell of now."""
        for _ in range(int(seconds * 2)):
            for key in self.worlds:
                await self.operators[key].step_if_due()
            for world in self.worlds.values():
                world.tick(0.5)
        for operator in self.operators.values():
            await operator.step()

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        return next(world.status for key, world in self.worlds.items() if key.name == name)

    def release(self, *names: str, version: int = 2) -> None:
        for key, world in self.worlds.items():
            if key.name in names:
                world.aliases["prod"] = version


async def company(limits: Limits, freezes: tuple[Freeze, ...] = ()) -> Company:
    started = Company(limits, freezes)
    await started.run(10)
    assert {started[key.name]["phase"] for key in NAMES} == {"Stable"}, "first revisions are not limited"
    return started


async def test_rollouts_wait_their_turn_and_all_get_it() -> None:
    fleet = await company(Limits(total=1))
    fleet.release("two")
    await fleet.run(1)
    fleet.release("three")
    await fleet.run(1)
    fleet.release("one")
    await fleet.run(1)
    assert fleet["two"]["candidate"]["version"] == 2
    assert (fleet["three"]["reason"], fleet["three"]["message"]) == ("Queued", "1st of 2 waiting; limit 1")
    assert (fleet["one"]["reason"], fleet["one"]["message"]) == ("Queued", "2nd of 2 waiting; limit 1")
    assert fleet["one"].get("candidate") is None
    fleet.woken.clear()
    while fleet["two"].get("candidate"):
        await fleet.run(0.5)
    assert fleet.woken[0] == NAMES[2], "who may begin is woken"
    await fleet.run(1)
    began = fleet.worlds[NAMES[0]].time
    assert "candidate" in fleet["three"] and "queuedAt" not in fleet["three"]
    assert fleet["one"]["message"] == "1st of 1 waiting; limit 1"
    while {fleet[key.name]["stable"]["version"] for key in NAMES} != {2}:
        assert fleet.worlds[NAMES[0]].time < began + 200
        await fleet.run(5)


async def test_the_place_in_line_survives_a_restart() -> None:
    fleet = await company(Limits(total=1))
    for name in ("two", "three", "one"):
        fleet.release(name)
        await fleet.run(1)
    queued = fleet["three"]["queuedAt"]
    fleet.restart()
    await fleet.run(1)
    assert fleet["three"]["queuedAt"] == queued
    assert fleet["one"]["message"] == "2nd of 2 waiting; limit 1"
    assert fleet["one"].get("candidate") is None and fleet["three"].get("candidate") is None


async def test_two_passes_at_once_cannot_take_one_place() -> None:
    fleet = await company(Limits(total=1))
    fleet.release("one", "two")
    for key in NAMES[:2]:
        await fleet.operators[key].poll()
    world, go_on = fleet.worlds[NAMES[0]], asyncio.Event()
    write = world.write_status

    async def slow_write(owner: Object, status: Object) -> Object:
        await go_on.wait()
        return await write(owner, status)

    world.write_status = slow_write  # type: ignore[method-assign]
    first = asyncio.create_task(fleet.operators[NAMES[0]].reconciler.reconcile(NAMES[0]))
    await asyncio.sleep(0)
    await fleet.operators[NAMES[1]].step()
    assert fleet["two"]["reason"] == "Queued"
    go_on.set()
    await first
    assert fleet["one"]["candidate"]["version"] == 2


async def test_a_place_taken_in_vain_is_given_back() -> None:
    fleet = await company(Limits(total=1))
    fleet.release("one", "two")
    world = fleet.worlds[NAMES[0]]
    world.conflict_at = len(world.writes)
    await fleet.operators[NAMES[0]].step()
    assert "candidate" not in fleet["one"]
    world.aliases["prod"] = 1
    await fleet.run(1)
    assert fleet["two"]["candidate"]["version"] == 2


async def test_a_first_revision_takes_no_place() -> None:
    fleet = Company(Limits(total=1))
    fleet.worlds[NAMES[0]].behaviours[1] = Behaviour(ready_after=float("inf"))
    await fleet.run(5)
    fleet.release("two")
    await fleet.run(1)
    assert fleet["one"]["phase"] == "Pending"
    assert fleet["two"]["candidate"]["version"] == 2


async def test_who_no_longer_wants_to_begin_loses_its_place() -> None:
    fleet = await company(Limits(total=1))
    for name in ("one", "two", "three"):
        fleet.release(name)
        await fleet.run(0.5)
    fleet.release("two", version=1)
    await fleet.run(1)
    fleet.release("two")
    await fleet.run(1)
    assert fleet["three"]["message"] == "1st of 2 waiting; limit 1"


@pytest.mark.parametrize("leave", ["suspended", "deleted", "unreadable", "moved back"])
async def test_nobody_waits_for_one_who_has_left_the_line(leave: str) -> None:
    fleet = await company(Limits(total=1))
    for name in ("one", "two", "three"):
        fleet.release(name)
        await fleet.run(0.5)
    world = fleet.worlds[NAMES[1]]
    match leave:
        case "suspended":
            world.edit(suspend=True)
        case "deleted":
            world.owner = None
        case "unreadable":
            world.edit(scaling={"replicas": "many"})
        case "moved back":
            world.aliases["prod"] = 1
    await fleet.run(1)
    assert fleet["three"]["message"] == "1st of 1 waiting; limit 1"
    end = fleet.worlds[NAMES[0]].time + 100
    while "candidate" not in fleet["three"]:
        assert fleet.worlds[NAMES[0]].time < end
        await fleet.run(5)


async def test_a_change_of_the_spec_that_waits_is_not_yet_observed() -> None:
    fleet = await company(Limits(total=1))
    fleet.release("two")
    await fleet.run(0.5)
    world = fleet.worlds[NAMES[0]]
    world.edit(server={"warmup": 3})
    await fleet.run(1)
    assert fleet["one"]["reason"] == "Queued" and fleet["one"]["observedGeneration"] == 1
    while fleet["two"].get("candidate"):
        await fleet.run(0.5)
    await fleet.run(1)
    assert fleet["one"]["candidate"]["cause"] == "Spec" and fleet["one"]["observedGeneration"] == 2


async def test_nobody_waits_for_a_frozen_namespace() -> None:
    freeze = Freeze("* * * * *", timedelta(minutes=2), ZoneInfo("UTC"), ("a",))
    fleet = await company(Limits(total=1), (freeze,))
    fleet.release("one")
    await fleet.run(1)
    fleet.release("three")
    await fleet.run(1)
    assert fleet["one"]["reason"] == "Frozen"
    assert fleet["three"]["candidate"]["version"] == 2


async def test_who_waited_before_a_freeze_is_first_after_it() -> None:
    fleet = await company(Limits(total=1))
    fleet.freezes = (Freeze("* * * * *", timedelta(minutes=2), ZoneInfo("UTC")),)
    fleet.restart()
    fleet.release("three")
    await fleet.run(1)
    fleet.release("one", "two")
    await fleet.run(1)
    assert {fleet[key.name]["reason"] for key in NAMES} == {"Frozen"}
    fleet.freezes = ()
    fleet.restart()
    await fleet.run(1)
    assert fleet["three"]["candidate"]["version"] == 2
    assert {fleet["one"]["reason"], fleet["two"]["reason"]} == {"Queued"}


def test_when_a_place_is_free_those_near_and_those_who_may_begin_are_woken() -> None:
    woken: list[Key] = []
    world = SimulatedWorld(SPEC)
    fleet = Fleet(world, Limits(per_namespace=1), wake=woken.append)
    blank = read_status({})
    waiting = blank.model_copy(update={"reason": "Queued", "phase": Phase.STABLE})
    fleet._put(Key("a", "rolling"), Member(rolling=True))
    fleet._put(Key("b", "rolling"), Member(rolling=True))
    for i in range(NEAR + 3):
        fleet.note(Key("a", f"w{i:02}"), waiting.model_copy(update={"queued_at": NOON + timedelta(seconds=i)}))
    fleet.note(Key("b", "last"), waiting.model_copy(update={"queued_at": NOON + timedelta(hours=1)}))
    assert woken == []
    fleet.forget(Key("b", "rolling"))
    assert woken == [*(Key("a", f"w{i:02}") for i in range(NEAR)), Key("b", "last")]


@pytest.mark.parametrize("namespaces", [(), ("a", "b")])
async def test_all_objects_are_listed_page_by_page(tmp_path: Path, namespaces: tuple[str, ...]) -> None:
    async def page(request: web.Request) -> web.Response:
        token = request.query.get("continue", "")
        items = [{"metadata": {"name": f"{request.match_info.get('namespace', 'all')}{token}"}}]
        return web.json_response({"metadata": {} if token else {"continue": "2"}, "items": items})

    application = web.Application()
    root = "/apis/modelramp.dev/v1alpha1"
    application.router.add_get(f"{root}/modeldeployments", page)
    application.router.add_get(f"{root}/namespaces/{{namespace}}/modeldeployments", page)
    async with TestServer(application) as server:
        api = await KubeApi.connect(kubeconfig(tmp_path, str(server.make_url(""))))
        names = [owner["metadata"]["name"] async for owner in all_owners(api, namespaces)]
        await api.close()
    assert names == (["a", "a2", "b", "b2"] if namespaces else ["all", "all2"])
