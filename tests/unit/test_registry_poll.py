"""The registries' poller: who waits for versions that are new to it."""

import asyncio
import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote_plus

from modelramp.adapters.mlflow_registry import LONGEST_LIST, searches
from modelramp.api.spec import ModelRef
from modelramp.domain.world import ModelVersion, Resolved
from modelramp.engine.registries import AT_ONCE, Registries, RegistryConfig
from modelramp.ports import Key, RegisteredModel, RegistryError
from tests.unit.simulation import SPEC, SimulatedWorld

MODELS = 3 * AT_ONCE


class SlowRegistry:
    """Answers for a version alone once AT_ONCE are asked for at a time; for many, only about those of ``shown``."""

    def __init__(self, shown: Collection[str] = ()) -> None:
        self.running = self.most = self.alone = self.together = 0
        self.enough = asyncio.Event()
        self.shown = shown
        self.up = True

    async def search(self) -> Sequence[RegisteredModel]:
        return [RegisteredModel(f"model-{number}", {"prod": 1}) for number in range(MODELS)]

    async def versions(self, wanted: Collection[tuple[str, int]]) -> Sequence[ModelVersion]:
        self.together += 1
        if not self.up:
            raise RegistryError("connection refused")
        return [found(name) for name, _ in wanted if name in self.shown]

    async def version(self, name: str, version: int) -> ModelVersion:
        self.alone += 1
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == AT_ONCE:
            self.enough.set()
        await self.enough.wait()
        await asyncio.sleep(0)
        self.running -= 1
        return found(name)


def found(name: str) -> ModelVersion:
    return ModelVersion("default", name, 1, "run", "models:/m", 1)


async def polled(registry: Any, polls: int = 1, **config: Any) -> tuple[Registries, list[Key]]:
    """After some polls for all models; and the keys that were woken."""
    woken: list[Key] = []
    configs = {"default": RegistryConfig("http://mlflow", **config)}
    registries = Registries(configs, {"default": registry}, SimulatedWorld(SPEC), woken.append)
    for key, ref in WANTED.items():
        registries.resolve(key, ref)
    async with asyncio.timeout(5):
        for _ in range(polls):
            await registries._poll("default", 0.0)
    return registries, woken


WANTED = {Key("shop", f"m-{n}"): ModelRef(name=f"model-{n}", alias="prod") for n in range(MODELS)}
ALL = [ref.name for ref in WANTED.values()]


async def test_versions_that_are_asked_for_alone_are_a_few_at_a_time() -> None:
    registry = SlowRegistry()
    registries, woken = await polled(registry)
    assert registry.most == AT_ONCE
    assert sorted(woken) == sorted(WANTED)
    assert all(isinstance(registries.resolve(key, ref), Resolved) for key, ref in WANTED.items())


async def test_versions_that_are_new_are_asked_for_together_and_once() -> None:
    registry = SlowRegistry(ALL)
    registries, woken = await polled(registry, polls=3)
    assert (registry.together, registry.alone) == (1, 0)
    assert sorted(woken) == sorted(WANTED)
    assert {registries.resolve(key, ref) for key, ref in WANTED.items()} == {Resolved(found(name)) for name in ALL}


async def test_versions_that_a_search_does_not_show_are_asked_for_alone() -> None:
    registry = SlowRegistry(ALL[AT_ONCE:])
    _, woken = await polled(registry)
    assert (registry.together, registry.alone, len(woken)) == (1, AT_ONCE, MODELS)


async def test_a_search_that_fails_keeps_nobody_from_asking_alone() -> None:
    registry = SlowRegistry(ALL)
    registry.up = False
    _, woken = await polled(registry)
    assert (registry.alone, len(woken)) == (MODELS, MODELS)


async def test_a_version_that_a_namespace_may_not_use_is_not_asked_for() -> None:
    registry = SlowRegistry(ALL)
    await polled(registry, namespaces=("other",))
    assert (registry.together, registry.alone) == (0, 0)


def test_searches_name_each_model_once_with_its_number() -> None:
    wanted = [("a", 1), ("b c", 1), ("d", 2), ("it's", 1), ('"', 1), ("e", 2), ("alone", 3)]
    assert list(searches(wanted)) == [
        "version_number = 1 AND name IN ('a', 'b c')",
        "version_number = 2 AND name IN ('d', 'e')",
    ]


def test_a_search_is_short_enough_for_a_line() -> None:
    names = [f"größe-{number:04d}" for number in range(1000)]
    found = list(searches((name, 7) for name in names))
    assert [name for it in found for name in re.findall("'(.*?)'", it)] == names
    assert all(LONGEST_LIST / 2 < len(quote_plus(it)) < LONGEST_LIST + 100 for it in found[:-1])
    assert list(searches([("x" * 3000, 1), ("y", 1), ("z", 1)])) == ["version_number = 1 AND name IN ('y', 'z')"]
