"""The operator's engine on its real adapter, in a process that SIGKILLs itself before or after one of its API writes.

What outlives the process (the registry's alias, the pods' counters, the time) is kept by the test, which answers over
loopback HTTP. The clock runs faster than the real one, so that holds take moments.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from modelramp.adapters.cache import Cache
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import KubeApi
from modelramp.domain.world import ModelVersion, Pod, PodMetrics, SplitCounts
from modelramp.engine.reconcile import EngineConfig, Reconciler
from modelramp.engine.registries import Registries, RegistryConfig
from modelramp.ports import ClusterError, Conflict, Key, Object, RegisteredModel
from tests.integration.engine_here import Silent

SPEED = 20.0
LONGEST_WAIT = 0.4


@dataclass(frozen=True)
class Doom:
    """The write (counted from 0) at which the process dies, and on which side of it."""

    write: int
    after: bool


class FastClock:
    """The Clock port: SPEED times as fast as the machine's."""

    def __init__(self, epoch: float) -> None:
        self._epoch = epoch
        self.start = datetime.fromtimestamp(epoch, UTC)

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return (time.time() - self._epoch) * SPEED


class DoomedApi(KubeApi):
    """Counts writes into a file, one byte each, and dies at its own."""

    doom: Doom | None = None
    tally: Path

    async def write(self, *arguments: Any, **keywords: Any) -> Object:
        index = self.tally.stat().st_size if self.tally.exists() else 0
        if self.doom == Doom(index, after=False):
            os.kill(os.getpid(), signal.SIGKILL)
        with self.tally.open("ab") as tally:
            tally.write(b".")
        answer = await super().write(*arguments, **keywords)
        if self.doom == Doom(index, after=True):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


class Outside(Silent):
    """The Registry and Metrics ports, asked of the test; and pods that tell nothing of their models."""

    def __init__(self, session: aiohttp.ClientSession, url: str, name: str) -> None:
        self._session, self._url, self._name = session, url, name

    async def search(self) -> Sequence[RegisteredModel]:
        async with self._session.get(f"{self._url}/alias") as answer:
            return [RegisteredModel(self._name, {"prod": int(await answer.text())})]

    async def version(self, name: str, version: int) -> ModelVersion | None:
        return ModelVersion("default", name, version, f"run-{version}", f"models:/m-{version}", version)

    async def read(self, namespace: str, pods: Iterable[Pod]) -> Mapping[str, PodMetrics]:
        asked = [{"name": p.name, "revision": p.revision, "split": p.split} for p in pods]
        async with self._session.post(f"{self._url}/metrics", json=asked) as answer:
            told: dict[str, dict[str, Any]] = await answer.json()
        return {
            pod: PodMetrics(**{**m, "splits": {salt: SplitCounts(**c) for salt, c in m["splits"].items()}})
            for pod, m in told.items()
        }


async def operate(kubeconfig: str, key: Key, url: str, epoch: float, tally: str, doom: Doom | None) -> None:
    """Passes without end: the test ends the process, if its doom does not."""
    api = await DoomedApi.connect(Path(kubeconfig))
    api.doom, api.tally = doom, Path(tally)  # type: ignore[attr-defined]
    clock = FastClock(epoch)
    async with aiohttp.ClientSession() as session:
        outside = Outside(session, url, "digits")
        registries = Registries(
            {"default": RegistryConfig("http://mlflow")}, {"default": outside}, clock, lambda _: None
        )
        cache = Cache(api, [key.namespace], lambda _: None)
        cluster = KubeCluster(api, cache, clock, lambda: None)
        config = EngineConfig("localhost/server:1", look_interval=5.0)
        reconciler = Reconciler(cluster, outside, outside, registries, clock, config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cache.run())
            tasks.create_task(registries.run(interval=1.0))
            tasks.create_task(pass_for_ever(reconciler, key, Path(f"{tally}.passes")))


async def pass_for_ever(reconciler: Reconciler, key: Key, passes: Path) -> None:
    while True:
        try:
            again = await reconciler.reconcile(key)
            with passes.open("ab") as tally:
                tally.write(b".")
        except (Conflict, ClusterError):
            again = 0.0
        await asyncio.sleep(min(LONGEST_WAIT, LONGEST_WAIT if again is None else again / SPEED))


def main(kubeconfig: str, key: tuple[str, str], url: str, epoch: float, tally: str, doom: Doom | None) -> None:
    asyncio.run(operate(kubeconfig, Key(*key), url, epoch, tally, doom))
