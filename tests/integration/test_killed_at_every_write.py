"""The operator SIGKILLed before and after each of its API writes in a rollout, and at rest; a real API server.

In each of several lives it is killed at every eighth of its writes, so that no write is left out. The same for
candidates that are taken back, and for conflicts, is told in simulation (tests/simulation).
"""

import asyncio
import dataclasses
import multiprocessing
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.desired.meta import NAME_LABEL
from modelramp.domain.world import Pod
from modelramp.ports import CHILD_KINDS
from tests.integration import doomed_operator
from tests.integration.doomed_operator import Doom, FastClock
from tests.integration.stand_in_metrics import StandInMetrics
from tests.integration.stand_in_node import StandInNode

pytestmark = pytest.mark.kills

STRIDE = 4  # of the writes at which one life is killed
TOGETHER = 8  # lives
QUIET_PASSES = 4
SETTLE_SECONDS = 60.0
SPEC: dict[str, Any] = {
    "model": {"name": "digits", "alias": "prod"},
    "scaling": {"replicas": 2},
    "rollout": {
        "steps": [{"weight": 10, "hold": "2s"}, {"weight": 50, "hold": "2s"}],
        "bake": "2s",
        "progressDeadline": "10m",
        "scaleDownDelay": "5s",
    },
}

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.integration.doomed_operator"])


@dataclass(frozen=True)
class Outcome:
    history: tuple[tuple[str, str, int, int], ...]
    children: tuple[tuple[str, int], ...]
    stable: int
    rejected: tuple[int, ...]


class Life:
    """One ModelDeployment, its registry, its pods' counters, and the operator's lives."""

    def __init__(
        self, api: KubeApi, kubeconfig: Path, folder: Path, namespace: str, dooms: Sequence[Doom] = ()
    ) -> None:
        self.dooms = list(dooms)
        self.api, self.kubeconfig, self.namespace = api, kubeconfig, namespace
        self.name = f"kill-{secrets.token_hex(4)}"
        self.tally = folder / self.name
        self.alias = 1
        self.epoch = time.time()
        self.metrics = StandInMetrics(FastClock(self.epoch), rps=500.0)  # type: ignore[arg-type]
        self.process: Any = None
        self.deaths = 0

    @property
    def writes(self) -> int:
        return self.tally.stat().st_size if self.tally.exists() else 0

    @property
    def passes(self) -> int:
        tally = self.tally.with_name(f"{self.tally.name}.passes")
        return tally.stat().st_size if tally.exists() else 0

    async def owner(self) -> dict[str, Any]:
        return await self.api.read(path_of(OWNER, self.namespace, self.name))

    async def told(self, request: web.Request) -> web.Response:
        if request.path == "/alias":
            return web.Response(text=str(self.alias))
        pods = [Pod(**pod) for pod in await request.json()]
        told = await self.metrics.read(self.namespace, pods)
        return web.json_response({name: dataclasses.asdict(m) for name, m in told.items()})

    def begin(self, url: str) -> None:
        doom = self.dooms[0] if self.dooms else None
        arguments = (str(self.kubeconfig), (self.namespace, self.name), url, self.epoch, str(self.tally), doom)
        self.process = processes.Process(target=doomed_operator.main, args=arguments, daemon=True)
        self.process.start()

    async def until(self, done: Callable[[dict[str, Any]], bool], url: str) -> None:
        """Waits for a status; a killed operator is followed by another. Raises TimeoutError."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not done((await self.owner()).get("status", {})):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: {(await self.owner()).get('status')}")
            self.keep_alive(url)
            await asyncio.sleep(0.4)

    def keep_alive(self, url: str) -> None:
        """A killed operator is followed by another."""
        if self.process.exitcode is not None:
            assert self.process.exitcode == -signal.SIGKILL
            self.deaths += 1
            del self.dooms[:1]
            self.begin(url)

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def settled(version: int) -> Callable[[dict[str, Any]], bool]:
    """At rest, after everything that the move of the alias to `version` leads to."""

    def check(status: dict[str, Any]) -> bool:
        if status.get("phase") != "Stable" or status.get("draining"):
            return False
        known = [status["stable"]["version"], *(r["version"] for r in status.get("rejected", []))]
        return version in known and status["reason"] in ("Serving", "Rejected")

    return check


@asynccontextmanager
async def answering(life: Life) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{any}", life.told)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def create(life: Life, spec: dict[str, Any]) -> None:
    body = {
        "apiVersion": OWNER.api_version,
        "kind": OWNER.kind,
        "metadata": {"name": life.name, "namespace": life.namespace},
        "spec": spec,
    }
    await life.api.write("POST", path_of(OWNER, life.namespace), body)


async def live(life: Life) -> Outcome:
    """Version 1 serves, the alias moves to 2, and everything comes to rest."""
    await create(life, SPEC)
    async with answering(life) as url:
        life.begin(url)
        try:
            await life.until(settled(1), url)
            life.alias = 2
            await life.until(settled(2), url)
            return await outcome(life, url)
        finally:
            life.end()
            await life.api.write("DELETE", path_of(OWNER, life.namespace, life.name), None)


async def outcome(life: Life, url: str) -> Outcome:
    """What is left once the operator, alive, writes no more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    writes, passes = life.writes, life.passes
    while life.passes < passes + QUIET_PASSES and time.monotonic() < deadline:
        await asyncio.sleep(doomed_operator.LONGEST_WAIT)
        life.keep_alive(url)
        if life.writes != writes:
            writes, passes = life.writes, life.passes
    children = []
    for kind in CHILD_KINDS:
        listed = await life.api.read(path_of(kind, life.namespace), {"labelSelector": f"{NAME_LABEL}={life.name}"})
        children.append((kind.kind, sum("deletionTimestamp" not in i["metadata"] for i in listed["items"] or ())))
    status = (await life.owner())["status"]
    return Outcome(
        history=tuple((h["action"], h["reason"], h["version"], h["attempt"]) for h in status["history"]),
        children=tuple(children),
        stable=status["stable"]["version"],
        rejected=tuple(r["version"] for r in status.get("rejected", [])),
    )


@pytest.mark.timeout(120)
async def test_an_operator_that_finds_all_at_rest_writes_nothing(
    admin: KubeApi, operator_kubeconfig: Path, tmp_path: Path, namespace: str
) -> None:
    life = Life(admin, operator_kubeconfig, tmp_path, namespace)
    server = {
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "env": [{"name": "NOTHING", "value": ""}],
        "volumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
        "volumeMounts": [{"name": "keys", "mountPath": "/etc/keys", "readOnly": True}],
    }
    await create(life, {**SPEC, "server": server, "scaling": {"minReplicas": 2, "maxReplicas": 4}})
    async with StandInNode(admin, namespace).running(), answering(life) as url:
        life.begin(url)
        try:
            await life.until(settled(1), url)
            before = await outcome(life, url)
            writes = life.writes
            life.process.kill()
            life.process.join()
            life.keep_alive(url)
            assert await outcome(life, url) == before
            assert life.deaths == 1
            assert life.writes == writes
            assert [count for kind, count in before.children] == [1, 1, 2, 1, 1]
        finally:
            life.end()


@pytest.mark.timeout(600)
async def test_the_same_history_and_children_wherever_it_is_killed(
    admin: KubeApi, operator_kubeconfig: Path, tmp_path: Path, namespace: str
) -> None:
    def new_life(dooms: Sequence[Doom] = ()) -> Life:
        return Life(admin, operator_kubeconfig, tmp_path, namespace, dooms)

    async with StandInNode(admin, namespace).running():
        await kill_everywhere(new_life)


async def kill_everywhere(new_life: Callable[[Sequence[Doom]], Life]) -> None:
    undisturbed = new_life(())
    expected = await live(undisturbed)
    assert [action for action, *_ in expected.history] == ["CandidateStarted", "Promoted"] * 2
    turn = asyncio.Semaphore(TOGETHER)

    async def killed(dooms: Sequence[Doom]) -> tuple[Sequence[Doom], Outcome, list[Doom]]:
        async with turn:
            life = new_life(dooms)
            got = await live(life)
            return dooms, got, [doom for doom in life.dooms if doom.write < life.writes]

    results = await asyncio.gather(*map(killed, fates(undisturbed.writes)))
    differing = [f"{dooms}: {got}" for dooms, got, _ in results if got != expected]
    assert not differing, "\n".join([f"undisturbed: {expected}", *differing])
    assert [survived for _, _, survived in results if survived] == []


def fates(writes: int) -> list[list[Doom]]:
    """Every write, before and after, in some life; in each life one out of STRIDE, on one side."""
    return [
        [Doom(write, after) for write in range(first, writes, STRIDE)]
        for first in range(min(STRIDE, writes))
        for after in (False, True)
    ]
