"""The operator's engine in this process, on the real adapter and a clock of the test; no pod is really asked."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from modelramp.adapters.cache import Cache
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.domain.findings import Inference, Tensor
from modelramp.domain.world import ModelVersion, Pod
from modelramp.engine.reconcile import EngineConfig, Reconciler
from modelramp.engine.registries import Registries, RegistryConfig
from modelramp.ports import ClusterError, Conflict, Key, Object, ProbeError, RegisteredModel
from tests.integration.stand_in_metrics import StandInMetrics, VirtualClock

PAUSE = 0.1  # seconds of the real clock between two passes
LONGEST = 60.0


@asynccontextmanager
async def filled(api: KubeApi, namespace: str) -> AsyncIterator[Cache]:
    """A cache of one namespace, kept true meanwhile."""
    cache = Cache(api, [namespace], lambda _: None)
    running = asyncio.create_task(cache.run())
    try:
        yield cache
    finally:
        running.cancel()
        await asyncio.wait([running])


class Silent:
    """A registry that knows no more than names and versions, and pods that tell nothing of their models."""

    async def versions(self, wanted: Collection[tuple[str, int]]) -> Sequence[ModelVersion]:
        return ()

    async def metrics(self, name: str, version: int) -> Mapping[str, float]:
        return {}

    async def tags(self, name: str, version: int) -> Mapping[str, str]:
        return {}

    async def inputs(self, namespace: str, pod: Pod, model: str) -> tuple[Tensor, ...]:
        return ()

    async def example(self, namespace: str, pod: Pod, model: str) -> None:
        return None

    async def infer(self, namespace: str, pod: Pod, body: Mapping[str, Any], seconds: float) -> Inference:
        raise ProbeError("there is nothing to send")


@dataclass
class Answers(Silent):
    """The registry, with one model and the alias prod; and pods that tell nothing of it."""

    model: str
    alias: int = 1

    async def search(self) -> Sequence[RegisteredModel]:
        return [RegisteredModel(self.model, {"prod": self.alias}, 1000)]

    async def version(self, name: str, version: int) -> ModelVersion | None:
        return ModelVersion("default", name, version, f"run-{version}", f"models:/m-{version}", 1000 + version)


@dataclass
class EngineHere:
    """Looks after one object. ``api`` is its account; a pass moves the clock by ``step`` seconds."""

    api: KubeApi
    cache: Cache
    key: Key
    server_image: str = "localhost/server:1"
    clock: VirtualClock = field(default_factory=VirtualClock)
    step: float = 0.5
    kind: type[KubeCluster] = KubeCluster

    def __post_init__(self) -> None:
        self.answers = Answers("digits")
        self.metrics = StandInMetrics(self.clock, rps=500.0)
        self._registries = Registries(
            {"default": RegistryConfig("http://mlflow")}, {"default": self.answers}, self.clock, lambda _: None
        )
        self.cluster = self.kind(self.api, self.cache, self.clock, lambda: None)
        config = EngineConfig(self.server_image)
        self._reconciler = Reconciler(self.cluster, self.metrics, self.answers, self._registries, self.clock, config)

    async def turn(self) -> None:
        """One pass, as the queue would repeat it."""
        await self._registries._poll("default", 0.0)
        try:
            await self._reconciler.reconcile(self.key)
        except (Conflict, ClusterError):
            await asyncio.sleep(PAUSE)
        self.clock.advance(self.step)

    async def until(self, done: Callable[[dict[str, Any]], bool]) -> Object:
        """Passes until the status is so; the object then. Raises TimeoutError."""
        deadline = time.monotonic() + LONGEST
        while True:
            owner = await self.api.read(path_of(OWNER, *self.key))
            if done(owner.get("status", {})):
                return owner
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came to it: {owner.get('status')}")
            await self.turn()
            await asyncio.sleep(PAUSE)


def serves(version: int) -> Callable[[dict[str, Any]], bool]:
    """It is stable, and nothing is under way."""
    return lambda status: status.get("phase") == "Stable" and status["stable"]["version"] == version
