"""The registries' poller: who waits for versions that are new to it."""

import asyncio
from collections.abc import Sequence

from modelramp.api.spec import ModelRef
from modelramp.domain.world import ModelVersion, Resolved
from modelramp.engine.registries import AT_ONCE, Registries, RegistryConfig
from modelramp.ports import Key, RegisteredModel
from tests.unit.simulation import SPEC, SimulatedWorld

MODELS = 3 * AT_ONCE


class SlowRegistry:
    """Answers for a version once AT_ONCE are asked for at a time."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.enough = asyncio.Event()

    async def search(self) -> Sequence[RegisteredModel]:
        return [RegisteredModel(f"model-{number}", {"prod": 1}) for number in range(MODELS)]

    async def version(self, name: str, version: int) -> ModelVersion:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == AT_ONCE:
            self.enough.set()
        await self.enough.wait()
        await asyncio.sleep(0)
        self.running -= 1
        return ModelVersion("default", name, version, "run", "models:/m", 1)


async def test_versions_are_asked_for_a_few_at_a_time() -> None:
    registry, woken = SlowRegistry(), []
    config = {"default": RegistryConfig("http://mlflow")}
    registries = Registries(config, {"default": registry}, SimulatedWorld(SPEC), woken.append)  # type: ignore[dict-item]
    wanted = {Key("shop", f"m-{n}"): ModelRef(name=f"model-{n}", alias="prod") for n in range(MODELS)}
    for key, ref in wanted.items():
        assert registries.resolve(key, ref) is None
    async with asyncio.timeout(5):
        await registries._poll("default", 0.0)
    assert registry.most == AT_ONCE
    assert sorted(woken) == sorted(wanted)
    assert all(isinstance(registries.resolve(key, ref), Resolved) for key, ref in wanted.items())
