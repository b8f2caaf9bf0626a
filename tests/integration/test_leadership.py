"""Two operators as processes on a real API server, with the times that are shipped: who leads, who writes, since when.

Speed is a property here: what users are promised is asserted, by the Lease's own times.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.engine.leader import LeaseTimes
from tests.integration.conftest import CreateOwner
from tests.integration.operator_process import Launcher, Operator, holder, shown_on_failure, until

pytestmark = [pytest.mark.timeout(180), pytest.mark.steady]

TAKEOVER = timedelta(seconds=20)
NOBODY = {"default": {"uri": "http://127.0.0.1:9"}}  # the port for what is thrown away


async def test_a_killed_leader_is_replaced(start: Launcher, admin: KubeApi) -> None:
    one, two = await a_leader_and_a_follower(start)
    async with shown_on_failure(one, two):
        killed = datetime.now(UTC)
        one.process.kill()
        await one.ended()
        renewed = moment(await holder(admin), "renewTime")
        since = moment(await until(led_by(admin, "two")), "acquireTime")
    assert since - killed < TAKEOVER
    assert since - renewed >= timedelta(seconds=LeaseTimes().duration)


async def test_a_leader_that_is_told_to_end_hands_over_at_once(
    start: Launcher, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    await create_owner()
    async with a_registry_that_never_answers() as (uri, asked):
        one, two = await a_leader_and_a_follower(start, registries={"default": {"uri": uri}})
        async with shown_on_failure(one, two):
            await until(judged(admin, namespace, ""))
            async with asyncio.timeout(60):
                await asked.wait()
            renewed = moment(await holder(admin), "renewTime")
            one.process.send_signal(signal.SIGTERM)
            since = moment(await until(led_by(admin, "two")), "acquireTime")
            assert await one.ended() == 0
    assert since - renewed < timedelta(seconds=LeaseTimes().duration), "nobody waited for the Lease to run out"
    assert all(datetime.fromisoformat(write["requestReceivedTimestamp"]) < since for write in one.writes())


async def test_a_leader_that_was_frozen_writes_nothing_more(
    start: Launcher, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    one, two = await a_leader_and_a_follower(start, registries=NOBODY)
    async with shown_on_failure(one, two):
        assert not two.writes()
        one.process.send_signal(signal.SIGSTOP)
        await create_owner()
        await until(led_by(admin, "two"))
        # What the former leader would say of the object, if it could, is another thing.
        await until(judged(admin, namespace, "has no registry 'default'"))
        thawed = datetime.now(UTC)
        one.process.send_signal(signal.SIGCONT)
        assert await one.ended() == 1
        assert await one.says("does not hold the lease") or await one.says("has not renewed its lease")
        # Its attempt to give up the Lease that is another's may be there, and is refused.
        assert all(is_refused_lease(write) for write in one.writes(thawed))
        assert (await holder(admin))["holderIdentity"] == "two"
    assert two.writes()


async def a_leader_and_a_follower(start: Launcher, **settings: Any) -> tuple[Operator, Operator]:
    """``one`` leads, with these settings; ``two`` waits, with none."""
    one = await start("one", **settings)
    async with shown_on_failure(one):
        await until(lambda: one.says("leading as one"))
    two = await start("two")
    async with shown_on_failure(two):
        await until(lambda: two.says("waiting for one to give up the lease"))
    return one, two


def led_by(admin: KubeApi, name: str) -> Callable[[], Awaitable[Any]]:
    async def check() -> Any:
        lease = await holder(admin)
        return lease if lease.get("holderIdentity") == name else None

    return check


def judged(admin: KubeApi, namespace: str, text: str) -> Callable[[], Awaitable[bool]]:
    """Whether the object's conditions say this."""

    async def check() -> bool:
        body = await admin.read(path_of(OWNER, namespace, "digits"))
        conditions = body.get("status", {}).get("conditions", [])
        return bool(conditions) and text in str(conditions)

    return check


def moment(lease: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(lease[name])


def is_refused_lease(write: dict[str, Any]) -> bool:
    return bool(write["objectRef"]["resource"] == "leases" and write["responseStatus"]["code"] == 409)


@asynccontextmanager
async def a_registry_that_never_answers() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Its address, and the event of the first connection."""
    asked, over = asyncio.Event(), asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await over.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        over.set()
        server.close()
        await server.wait_closed()
