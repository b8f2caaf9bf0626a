"""``python -m modelramp`` as a process, under the chart's account: what it writes, whom it follows, how it ends."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.adapters.lease import LEASE
from modelramp.adapters.observe import OWNER
from tests.integration.conftest import CreateOwner

pytestmark = pytest.mark.timeout(120)

NAMESPACE, NAME = "modelramp-system", "modelramp-operator"


@dataclass
class Operator:
    process: asyncio.subprocess.Process
    log: Path

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.process.wait()


Start = Callable[..., Any]


@pytest.fixture
async def start(operator_kubeconfig: Path, admin: KubeApi, namespace: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts operators that look after the test's namespace only; ends them with the test."""
    if await admin.find(path_of(LEASE, NAMESPACE, NAME)):
        await admin.write("DELETE", path_of(LEASE, NAMESPACE, NAME), None)
    started: list[Operator] = []

    async def run(identity: str, **settings: Any) -> Operator:
        config, log = tmp_path / f"{identity}.yaml", tmp_path / f"{identity}.log"
        written = {"serverImage": "localhost/none:dev", "watchNamespaces": [namespace], "logFormat": "text", **settings}
        config.write_text(yaml.safe_dump(written))
        environment = {
            **os.environ,
            "KUBECONFIG": str(operator_kubeconfig),
            "MODELRAMP_CONFIG": str(config),
            "MODELRAMP_NAMESPACE": NAMESPACE,
            "MODELRAMP_POD_NAME": identity,
            "MODELRAMP_HEALTH_HOST": "127.0.0.1",
            "MODELRAMP_HEALTH_PORT": "0",
        }
        with log.open("w") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "modelramp", env=environment, stdout=output, stderr=output
            )
        started.append(Operator(process, log))
        return started[-1]

    yield run
    for operator in started:
        if operator.process.returncode is None:
            operator.process.kill()
        await operator.process.wait()


@asynccontextmanager
async def shown_on_failure(operator: Operator) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        print(operator.log.read_text()[-4000:])
        raise


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 40.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (answer := await check()):  # noqa: ASYNC110, another process sets no asyncio.Event
            await asyncio.sleep(0.1)
        return answer


async def test_kopf_writes_nothing_on_the_users_object(
    start: Start, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    before = await create_owner()
    operator = await start("one")

    async def judged() -> Any:
        body = await admin.read(path_of(OWNER, namespace, "digits"))
        return body if body["status"].get("conditions") else None

    async with shown_on_failure(operator):
        after = await until(judged)
    assert (before["metadata"].get("annotations"), None) == (
        after["metadata"].get("annotations"),
        after["metadata"].get("finalizers"),
    )
    assert after["spec"] == before["spec"]
    assert {e["manager"] for e in after["metadata"]["managedFields"] if e.get("subresource")} == {NAME}
    assert "has no registry 'default'" in str(after["status"]["conditions"])


async def test_it_ends_in_order_and_hands_its_lease_over(start: Start, admin: KubeApi, namespace: str) -> None:
    async def holder() -> str:
        lease = await admin.find(path_of(LEASE, NAMESPACE, NAME))
        return str(lease["spec"].get("holderIdentity", "")) if lease else ""

    async def leads(name: str) -> bool:
        return await holder() == name

    one = await start("one")
    async with shown_on_failure(one):
        await until(lambda: leads("one"))
    two = await start("two")
    async with shown_on_failure(two):
        await until(lambda: says(two, "waiting for one to give up the lease"))
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
        await until(lambda: leads("two"), 10.0)


async def test_an_operator_whose_lease_was_taken_exits(start: Start, admin: KubeApi, namespace: str) -> None:
    operator = await start("one")
    async with shown_on_failure(operator):
        await until(lambda: says(operator, "leading as one"))
        stolen = {"spec": {"holderIdentity": "thief"}}
        await admin.write("PATCH", path_of(LEASE, NAMESPACE, NAME), stolen, MERGE_PATCH)
        assert await operator.ended() == 1
    assert re.search("does not hold the lease", operator.log.read_text())


async def test_a_wrong_setting_ends_it_with_a_sentence(start: Start) -> None:
    operator = await start("one", pollInterval="often")
    assert await operator.ended() == 2
    assert re.fullmatch(
        r"modelramp: \S+one\.yaml: pollInterval: .*'often' is not a duration.*\n", operator.log.read_text()
    )


async def says(operator: Operator, text: str) -> bool:
    return text in operator.log.read_text()
