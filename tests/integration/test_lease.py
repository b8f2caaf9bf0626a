"""Leader election on a real Lease, by the operator's own account."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from modelramp.adapters.clock import SystemClock
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.lease import LEASE, KubeLease
from modelramp.engine.leader import Leader, LeaseLost, LeaseTimes
from modelramp.ports import Conflict, Key
from tests.integration.conftest import kubectl
from tests.integration.stand_in_metrics import VirtualClock

LEASE_KEY = Key("modelramp-system", "modelramp-operator")


@pytest.fixture
async def lease(api: KubeApi, admin: KubeApi) -> AsyncIterator[KubeLease]:
    """The Lease of the chart, which the operator's role names; fresh for each test."""
    if await admin.find(path_of(LEASE, *LEASE_KEY)):
        await admin.write("DELETE", path_of(LEASE, *LEASE_KEY), None)
    yield KubeLease(api, LEASE_KEY)


async def test_a_silent_leader_is_replaced_after_the_time_it_announced(lease: KubeLease) -> None:
    clock = VirtualClock()
    one, two = (Leader(lease, clock, f"{name}-{secrets.token_hex(2)}") for name in ("one", "two"))
    assert await one.attempt()
    assert not await two.attempt()
    clock.advance(LeaseTimes().duration - 1)
    assert not await two.attempt()
    clock.advance(1)
    assert await two.attempt()
    with pytest.raises(LeaseLost):
        one.may_write()
    assert not await one.attempt()
    stored = await lease.read()
    assert stored is not None and (stored.transitions, stored.duration) == (1, 15)


async def test_a_released_lease_is_taken_at_once(lease: KubeLease) -> None:
    one, two = (Leader(lease, SystemClock(), name) for name in ("one", "two"))
    await one.acquire()
    await one.release()
    assert await two.attempt()
    assert "two" in kubectl("-n", LEASE_KEY.namespace, "get", "lease", LEASE_KEY.name)


async def test_of_two_writes_on_what_both_have_read_one_is_refused(lease: KubeLease) -> None:
    leader = Leader(lease, SystemClock(), "one")
    await leader.attempt()
    stored = await lease.read()
    assert stored is not None
    await lease.write(replace(stored, holder="two"))
    with pytest.raises(Conflict):
        await lease.write(replace(stored, holder="three"))
