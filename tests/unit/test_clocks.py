"""Times in a status that lie ahead were written by a clock that ran ahead: they hold nothing up."""

import pytest

from modelramp.api.base import format_time
from modelramp.api.status import CandidateStatus, Cause, Phase, StableStatus, Status
from modelramp.domain.fleet import Limits
from modelramp.domain.world import Fault
from modelramp.engine.fleet import Fleet
from modelramp.ports import Key
from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld, run, serves, serving, spec, until

TEN_MINUTES = 600.0
UNSCHEDULABLE = Fault("Unschedulable", "no node fits", models_own=False)


@pytest.mark.parametrize("reason", ["Starting", "Splitting", "Holding", "Baking"])
async def test_a_rollout_goes_on_when_the_clock_is_put_back(reason: str) -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == reason)
    world.shift_clock(-TEN_MINUTES)
    await until(world, Operator(world), serves(2))


async def test_former_pods_go_in_time_when_the_clock_is_put_back() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, serves(2))
    assert world.status["draining"] and world.status["guard"]
    world.shift_clock(-TEN_MINUTES)
    await run(world, Operator(world), 20)
    assert not world.status["draining"]
    assert {pod.version for pod in world.pods.values()} == {2}


async def test_a_back_off_is_not_longer_than_the_longest_when_the_clock_is_put_back() -> None:
    world, operator = await serving(SPEC)
    world.behaviours[2] = Behaviour(fault=UNSCHEDULABLE)
    await until(world, operator, lambda status: status.get("backOff") is not None and status["phase"] == "Stable")
    world.shift_clock(-24 * 3600.0)
    world.behaviours[2] = Behaviour()
    await run(world, operator, 1801, tick=10.0)
    await until(world, operator, serves(2))


@pytest.mark.parametrize("halt", ["pause", "suspend"])
async def test_a_halt_begun_by_a_clock_ahead_ends_all_the_same(halt: str) -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "5s"}, {"pause": {}}]))
    await until(world, operator, lambda status: status["phase"] == "Paused")
    if halt == "suspend":
        world.edit(suspend=True)
        await run(world, operator, 2)
    world.shift_clock(-TEN_MINUTES)
    operator = Operator(world)
    await run(world, operator, 2)
    if halt == "suspend":
        world.edit(suspend=False)
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, serves(2))
    assert not world.status["rejected"]


async def test_who_stood_in_line_by_a_clock_ahead_is_not_the_last_for_that_long() -> None:
    world = SimulatedWorld(SPEC)
    fleet = Fleet(world, Limits(total=1))
    operator = Operator(world, fleet=fleet)
    await until(world, operator, serves(1))
    moving = CandidateStatus(revision="0" * 8, version=2, cause=Cause.ALIAS, salt="", started_at=world.now())
    stable = StableStatus(revision="1" * 8, version=1, since=world.now())
    fleet.note(Key("shop", "other"), Status(candidate=moving, stable=stable, phase=Phase.GATING))
    world.shift_clock(TEN_MINUTES)
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: s["reason"] == "Queued")
    world.shift_clock(-TEN_MINUTES)
    await operator.step()
    assert world.status["queuedAt"] <= format_time(world.now())
