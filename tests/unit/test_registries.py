"""What the registries say, and when they are asked: nudges, things deleted there, a registry in another's place."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from modelramp.adapters.clock import SystemClock
from modelramp.adapters.credentials import Credentials
from modelramp.api.spec import ModelRef
from modelramp.domain.world import Resolved
from modelramp.engine.registries import NUDGE_SECONDS, Registries, RegistryConfig
from modelramp.ports import Key, RegisteredModel, RegistryError
from tests.unit.simulation import KEY, SPEC, Operator, SimulatedWorld, run, serves, serving, until

PROD = ModelRef(name="digits", alias="prod")


class CountedWorld(SimulatedWorld):
    """``searches`` counts; a search waits for ``gate``."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.searches = 0
        self.gate, self.reading = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def search(self) -> Sequence[RegisteredModel]:
        self.searches += 1
        found = await super().search()
        self.reading.set()
        await self.gate.wait()
        return found


async def test_many_nudges_are_one_search_and_it_is_not_put_off() -> None:
    world = CountedWorld()
    registries = Registries({"default": RegistryConfig("http://r")}, {"default": world}, world, lambda _: None)
    registries.resolve(KEY, PROD)
    await registries._poll("default", 15.0)
    for at, searches in ((0.1, 1), (NUDGE_SECONDS, 2), (1.0, 2), (14.0, 2), (16.0, 3)):
        if at <= NUDGE_SECONDS:
            registries.nudge("default")
        world.time = 1_000_000 + at
        await registries._poll("default", 15.0)
        assert world.searches == searches, at


async def test_a_nudge_wakes_the_poller_and_one_during_a_search_is_not_lost() -> None:
    world, woken = CountedWorld(), asyncio.Event()
    registries = Registries(
        {"default": RegistryConfig("http://r")}, {"default": world}, SystemClock(), lambda _: woken.set()
    )
    registries.resolve(KEY, PROD)
    poller = asyncio.create_task(registries.run(3600.0))
    await woken.wait()
    for _ in range(5):
        await asyncio.sleep(0)  # until the poller waits for the next hour
    world.gate.clear()
    woken.clear()
    world.reading.clear()
    world.aliases["prod"] = 2
    registries.nudge("default")
    await world.reading.wait()
    world.aliases["prod"] = 3  # after that search has read, before it has answered
    registries.nudge("default")
    world.gate.set()
    answer = None
    while not (isinstance(answer, Resolved) and answer.model.version == 3):
        await woken.wait()
        woken.clear()
        answer = registries.resolve(KEY, PROD)
    assert world.searches == 3
    poller.cancel()


async def test_a_registry_that_hangs_keeps_no_other_waiting() -> None:
    hanging, world, woken = CountedWorld(), CountedWorld(), asyncio.Event()
    hanging.gate.clear()
    configs = {"theirs": RegistryConfig("http://t"), "default": RegistryConfig("http://r")}
    adapters = {"theirs": hanging, "default": world}
    registries = Registries(configs, adapters, SystemClock(), lambda _: woken.set())
    registries.resolve(Key("shop", "other"), ModelRef(name="digits", alias="prod", registry="theirs"))
    registries.resolve(KEY, PROD)
    poller = asyncio.create_task(registries.run(3600.0))
    async with asyncio.timeout(10):
        await hanging.reading.wait()
        await woken.wait()
        for _ in range(2):
            world.reading.clear()
            registries.nudge("default")
            await world.reading.wait()
    assert hanging.searches == 1
    poller.cancel()


async def test_when_the_model_is_deleted_the_rollout_holds_and_then_goes_back() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    world.registered = False
    await run(world, operator, 200)
    assert (world.status["phase"], world.status["candidate"]["version"]) == ("Ramping", 2)
    await until(world, operator, serves(1))
    assert world.status["reason"] == world.status["history"][-1]["reason"] == "ModelNotFound"
    assert world.status["rejected"] == []
    assert "ModelNotFound" in [event.reason for event in world.events]


async def test_when_the_pinned_version_does_not_exist_stable_serves_on() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, serves(2))
    world.deleted_versions = {7}
    world.edit(model={"name": "digits", "version": 7})
    await run(world, operator, 60)
    assert (world.status["reason"], world.status["stable"]["version"]) == ("VersionNotFound", 2)
    assert "has no version 7" in world.status["message"]
    world.deleted_versions = set()
    await until(world, operator, serves(7))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"name": "digits", "alias": "prod", "registry": "none"}, "RegistryNotConfigured"),
        ({"name": "digits", "alias": "prod", "registry": "theirs"}, "NotAllowed"),
        ({"name": "secret", "alias": "prod"}, "NotAllowed"),
    ],
)
async def test_a_registry_that_is_not_to_be_had_touches_nothing_that_serves(model: dict[str, Any], reason: str) -> None:
    world = SimulatedWorld(SPEC)
    configs = {
        "default": RegistryConfig("http://r", models=("digits",)),
        "theirs": RegistryConfig("http://t", namespaces=("other",)),
    }
    operator = Operator(world, configs=configs)
    await until(world, operator, serves(1))
    world.edit(model=model)
    await run(world, operator, 60)
    assert (world.status["reason"], world.status["stable"]["version"]) == (reason, 1)


class OtherRegistry:
    """Another registry, with a model of the same name and numbers."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world

    async def search(self) -> Sequence[RegisteredModel]:
        return [RegisteredModel("digits", {"prod": 1}, 5)]

    async def versions(self, wanted: Any) -> Any:
        return []

    async def version(self, name: str, version: int) -> Any:
        found = await self.world.version(name, version)
        return found and type(found)("other", name, version, "run", "s3://other", 6)


async def test_another_registry_is_another_version_and_is_ramped() -> None:
    world = SimulatedWorld(SPEC)
    operator = Operator(world, configs={"default": RegistryConfig("http://r"), "other": RegistryConfig("http://o")})
    operator.registries._adapters["other"] = OtherRegistry(world)  # type: ignore[index]
    await until(world, operator, serves(1))
    before = world.status["stable"]["revision"]
    world.edit(model={"name": "digits", "alias": "prod", "registry": "other"})
    await until(world, operator, lambda status: status["reason"] == "Holding")
    assert world.status["stable"]["revision"] == before and world.status["candidate"]["version"] == 1
    await until(world, operator, serves(1))
    assert world.status["stable"]["revision"] != before


async def test_a_nudge_for_a_registry_that_nobody_uses_asks_nothing() -> None:
    world = CountedWorld()
    registries = Registries({"default": RegistryConfig("http://r")}, {"default": world}, world, lambda _: None)
    registries.nudge("default")
    await registries._poll("default", 15.0)
    registries.resolve(Key("shop", "digits"), PROD)
    await registries._poll("default", 15.0)
    assert world.searches == 1


def test_credentials_are_read_anew_and_a_missing_or_empty_file_is_told(tmp_path: Any) -> None:
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text("one\n")
    credentials = Credentials(token_file=token)
    assert credentials.read()["token"] == "one"
    token.unlink()
    token.symlink_to(password)
    with pytest.raises(RegistryError, match=r"cannot read the token in \S+token: No such file"):
        credentials.read()
    password.write_text("two")
    assert credentials.read() == {"token": "two", "username": None, "password": None, "auth": None, "aws_sigv4": False}
    password.write_bytes(b"\xff")
    with pytest.raises(RegistryError, match="not text"):
        credentials.read()
    password.write_text(" \n")
    with pytest.raises(RegistryError, match="is empty; see the Secret"):
        credentials.read()
    assert Credentials().read() == {}
    with pytest.raises(RegistryError, match="CA bundle"):
        Credentials(ca_file=tmp_path / "none").read()
