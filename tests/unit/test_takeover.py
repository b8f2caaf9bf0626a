"""Taking over a Service that exists: when, which ones, who fights for it, and how it is given back."""

import asyncio
import copy
from typing import Any

import pytest

from modelramp.adapters import other_services
from modelramp.desired.takeover import returned
from modelramp.ports import Key, Observation
from tests.unit.simulation import SPEC, Operator, SimulatedWorld, run, serves, until

ANNOTATION = "modelramp.dev/adopt-service"
OLD = {"app": "old-digits"}
PLAIN: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "classify", "namespace": "shop", "uid": "theirs", "labels": {"team": "shop"}},
    "spec": {"type": "ClusterIP", "selector": OLD, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 5000}]},
}


def changed(**parts: Any) -> dict[str, Any]:
    """The Service with parts of metadata or spec replaced."""
    body = copy.deepcopy(PLAIN)
    for name, value in parts.items():
        (body["metadata"] if name in ("annotations", "ownerReferences", "managedFields") else body["spec"])[name] = (
            value
        )
    return body


def begun(service: dict[str, Any] | None = PLAIN, name: str = "classify") -> tuple[SimulatedWorld, Operator]:
    world = SimulatedWorld(SPEC)
    assert world.owner is not None
    world.owner["metadata"]["annotations"][ANNOTATION] = name
    if service is not None:
        world.services["classify"] = copy.deepcopy(service)
    return world, Operator(world)


def selector(world: SimulatedWorld) -> dict[str, str]:
    chosen: dict[str, str] = world.services["classify"]["spec"]["selector"]
    return chosen


def selected(world: SimulatedWorld) -> str | None:
    return selector(world).get("modelramp.dev/revision")


def condition(world: SimulatedWorld, kind: str) -> dict[str, Any] | None:
    return next((c for c in world.status.get("conditions", ()) if c["type"] == kind), None)


def told(world: SimulatedWorld) -> list[str]:
    return [event.reason for event in world.events]


def adopted(status: dict[str, Any]) -> bool:
    return bool((status.get("service") or {}).get("since"))


async def test_it_is_taken_over_once_stable_can_answer_everybody() -> None:
    world, operator = begun()
    while not adopted(world.status):
        assert selector(world) == OLD
        ready = sum(map(world.ready, world.pods.values()))
        await operator.step()
        world.tick(0.5)
    assert ready == 2
    await run(world, operator, 2)
    service = world.services["classify"]
    assert selected(world) == world.status["stable"]["revision"]
    assert service["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": "http"}]
    assert service["metadata"]["labels"]["team"] == "shop"
    assert "ownerReferences" not in service["metadata"], "it outlives the ModelDeployment"
    assert told(world).count("ServiceAdopted") == 1 and condition(world, "ServiceNotAdopted") is None


async def test_while_stable_starts_it_says_what_it_waits_for() -> None:
    world, operator = begun()
    await run(world, operator, 1)
    standing = condition(world, "ServiceNotAdopted")
    assert standing is not None and standing["reason"] == "StableNotReady"


async def test_it_follows_a_promotion_and_costs_no_write_at_rest() -> None:
    world, operator = begun()
    await until(world, operator, adopted)
    first = world.status["stable"]["revision"]
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: s["phase"] == "Promoting")
    assert selected(world) == first
    await until(world, operator, serves(2))
    await run(world, operator, 60)
    assert selected(world) == world.status["stable"]["revision"] != first
    writes = len(world.writes)
    await run(world, Operator(world), 30)
    assert len(world.writes) == writes


OWNED = {"kind": "Gateway", "name": "edge", "uid": "u", "controller": True, "apiVersion": "v1"}


@pytest.mark.parametrize(
    ("service", "reason", "words"),
    [
        (None, "ServiceNotFound", "there is no Service classify"),
        (changed(ownerReferences=[OWNED]), "ServiceOwned", "belongs to Gateway edge"),
        (changed(annotations={"modelramp.dev/adopted-by": "other"}), "ServiceOwned", "ModelDeployment other"),
        (changed(type="ExternalName", externalName="a.b", selector=None), "ServiceUnfit", "is an ExternalName"),
        (changed(clusterIP="None"), "ServiceUnfit", "is headless"),
        (changed(selector=None), "ServiceUnfit", "has no selector"),
        (changed(ports=[]), "ServiceUnfit", "has 0 ports"),
        (changed(ports=[{"port": 80}, {"port": 81}]), "ServiceUnfit", "has 2 ports"),
        (changed(ports=[{"port": 53, "protocol": "UDP"}]), "ServiceUnfit", "for UDP"),
        (changed(ports=[{"port": 80, "appProtocol": "kubernetes.io/h2c"}]), "ServiceUnfit", "kubernetes.io/h2c"),
    ],
)
async def test_one_that_our_pods_could_not_serve_is_refused_in_words(service: Any, reason: str, words: str) -> None:
    world, operator = begun(service)
    await until(world, operator, serves(1))
    await run(world, operator, 5)
    standing = condition(world, "ServiceNotAdopted")
    assert standing is not None and (standing["reason"], words in standing["message"]) == (reason, True)
    assert told(world).count(reason) == 1 and "ServiceAdopted" not in told(world)
    assert world.services.get("classify") == service, "not a field of it is touched"
    assert serves(1)(world.status), "the object serves all the same"


@pytest.mark.parametrize("name", ["..", "a/b", "Classify", "x" * 64])
async def test_a_name_that_no_service_can_have_is_not_even_looked_for(name: str) -> None:
    assert other_services.wanted({"metadata": {"annotations": {ANNOTATION: name}}}) == ""
    world, operator = begun(None, name)
    await until(world, operator, serves(1))
    assert "ServiceNotFound" in told(world)


async def test_another_name_before_anything_was_taken() -> None:
    world, operator = begun(None)
    await until(world, operator, serves(1))
    world.services["classify"] = copy.deepcopy(PLAIN)
    world.services["second"] = changed()
    world.services["second"]["metadata"] |= {"name": "second"}
    assert world.owner is not None
    world.owner["metadata"]["annotations"][ANNOTATION] = "second"
    await until(world, operator, adopted)
    assert selector(world) == OLD and "ServiceReturned" not in told(world)


async def test_one_that_is_mended_is_looked_at_again_by_itself() -> None:
    world, operator = begun(changed(selector=None))
    await until(world, operator, serves(1))
    await run(world, operator, 5)
    again = await operator.step()
    assert again is not None and again <= 30
    world.services["classify"]["spec"]["selector"] = OLD
    await until(world, operator, adopted)


async def test_without_the_annotation_it_is_given_back_as_it_was() -> None:
    world, operator = begun()
    await until(world, operator, adopted)
    await run(world, operator, 2)
    assert world.owner is not None
    del world.owner["metadata"]["annotations"][ANNOTATION]
    await run(world, operator, 2)
    assert world.services["classify"]["spec"] == PLAIN["spec"]
    assert world.services["classify"]["metadata"]["annotations"] == {}
    assert told(world).count("ServiceReturned") == 1 and "service" not in world.status
    writes = len(world.writes)
    await run(world, operator, 5)
    assert len(world.writes) == writes


async def test_another_name_gives_the_first_back_and_takes_the_second() -> None:
    world, operator = begun()
    await until(world, operator, adopted)
    await run(world, operator, 2)
    world.services["second"] = changed()
    world.services["second"]["metadata"]["name"] = "second"
    assert world.owner is not None
    world.owner["metadata"]["annotations"][ANNOTATION] = "second"
    await run(world, operator, 2)
    assert selector(world) == OLD
    assert "modelramp.dev/revision" in world.services["second"]["spec"]["selector"]


@pytest.mark.parametrize("gone", [True, False])
async def test_a_deleted_object_gives_it_back(gone: bool) -> None:
    world, operator = begun()
    await until(world, operator, adopted)
    await run(world, operator, 2)
    assert world.owner is not None
    world.owner["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if gone:
        world.owner = None
    await operator.step()
    assert world.services["classify"]["spec"] == PLAIN["spec"]


def test_pods_that_outlive_their_object_keep_it() -> None:
    orphan, child = {"metadata": {}}, {"metadata": {"ownerReferences": [OWNED]}}
    assert other_services.stays(None, [orphan]) and not other_services.stays(None, [child])
    assert not other_services.stays(None, [])
    assert other_services.stays({"metadata": {"finalizers": ["orphan"]}}, [child])
    assert not other_services.stays({"metadata": {"finalizers": ["foregroundDeletion"]}}, [child])


@pytest.mark.parametrize("drift", [OLD, {"app": "old-digits", "modelramp.dev/name": "digits"}])
async def test_who_sets_the_selector_back_is_named_and_set_right(drift: dict[str, str]) -> None:
    world, operator = begun()
    await until(world, operator, adopted)
    await run(world, operator, 2)
    service = world.services["classify"]
    service["spec"]["selector"] = {**drift}
    owns = {"f:spec": {"f:selector": {}}}
    service["metadata"]["managedFields"] = [
        {"manager": "first", "time": "2026-01-01T00:00:00Z", "fieldsV1": owns},
        {"manager": "argocd-controller", "time": "2026-01-02T00:00:00Z", "fieldsV1": owns},
        {"manager": "kubectl", "time": "2026-01-03T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
    ]
    await operator.step()
    assert selected(world) == world.status["stable"]["revision"]
    contested = condition(world, "ServiceContested")
    assert contested is not None and contested["message"].startswith("argocd-controller changed spec.selector")
    assert told(world).count("ServiceContested") == 1
    await run(world, operator, 16 * 60, tick=30)
    assert condition(world, "ServiceContested") is None
    world.services["classify"]["spec"]["selector"] = OLD
    assert returned("shop", other_seen(world))[0]["spec"]["selector"] == OLD


def other_seen(world: SimulatedWorld) -> list[Any]:
    return [other_services.other_service(world.services["classify"], "digits")]


async def test_one_that_is_deleted_by_somebody_is_missed() -> None:
    world, operator = begun()
    await until(world, operator, adopted)
    del world.services["classify"]
    await run(world, operator, 2)
    standing = condition(world, "ServiceNotAdopted")
    assert standing is not None and standing["reason"] == "ServiceNotFound"
    world.services["classify"] = copy.deepcopy(PLAIN)
    await run(world, operator, 2)
    assert selected(world) == world.status["stable"]["revision"]


class Slow(SimulatedWorld):
    """What it sees may be old when it writes."""

    async def observe(self, key: Key) -> Observation:
        seen = await super().observe(key)
        await asyncio.sleep(0)
        return seen


async def test_two_that_take_the_same_one_over_at_once_do_not_fight_for_it() -> None:
    services = {"classify": copy.deepcopy(PLAIN)}
    both: list[tuple[Slow, Operator]] = []
    for name in ("digits", "letters"):
        world = Slow(SPEC, key=Key("shop", name))
        world.services = services
        both.append((world, Operator(world)))
        await until(*both[-1], serves(1))
    for world, _ in both:
        assert world.owner is not None
        world.owner["metadata"]["annotations"][ANNOTATION] = "classify"
    for _ in range(20):
        await asyncio.gather(*(operator.step() for _, operator in both))
        for world, _ in both:
            world.tick(0.5)
    (loser,) = (world for world, _ in both if not adopted(world.status))
    assert (condition(loser, "ServiceNotAdopted") or {})["reason"] == "ServiceOwned"
    assert OLD["app"] in services["classify"]["metadata"]["annotations"]["modelramp.dev/before-adoption"]


async def test_killed_at_any_write_it_is_taken_over_once_and_remembers_what_was() -> None:
    world, operator = begun()
    await until(world, operator, adopted)
    await run(world, operator, 2)
    expected = world.services["classify"]
    for write in range(len(world.writes)):
        for after in (False, True):
            world, operator = begun()
            setattr(world, "kill_after" if after else "kill_before", write)
            while not adopted(world.status) or selector(world) == OLD:
                try:
                    await operator.step()
                except BaseException as killed:
                    assert type(killed).__name__ == "Killed"
                    world.kill_before = world.kill_after = None
                    operator = Operator(world)
                world.tick(0.5)
            before = expected["metadata"]["annotations"]["modelramp.dev/before-adoption"]
            assert world.services["classify"]["metadata"]["annotations"]["modelramp.dev/before-adoption"] == before


@pytest.mark.parametrize("record", ["", "{", "[]", '{"selector": 1}', '{"selector": {}}'])
def test_a_service_whose_record_is_spoilt_is_nobodys(record: str) -> None:
    body = changed(
        annotations={"modelramp.dev/adopted-by": "digits", "modelramp.dev/before-adoption": record},
    )
    assert not other_services.is_taken(body, "digits")
