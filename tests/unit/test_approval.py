"""Steps that wait for an approval: who may end them, and who may not."""

from typing import Any

from tests.unit.simulation import SPEC, Operator, SimulatedWorld, run, until

STEPS = [{"weight": 10, "hold": "5s"}, {"pause": {"approval": "clinic"}}, {"weight": 50, "hold": "5s"}]


def spec(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {**SPEC, "rollout": {**SPEC["rollout"], "steps": steps}}


async def at_the_gate() -> tuple[SimulatedWorld, Operator]:
    world = SimulatedWorld(spec(STEPS))
    operator = Operator(world)
    await run(world, operator, 10)
    world.aliases["prod"] = 2
    status = await until(world, operator, lambda status: status["reason"] == "AwaitingApproval")
    assert (status["phase"], status["reason"], status["traffic"]["weight"]) == ("Paused", "AwaitingApproval", 10)
    assert "the approval 'clinic'" in status["message"]
    return world, operator


def revision(world: SimulatedWorld) -> str:
    return str(world.status["candidate"]["revision"])


async def test_an_approval_goes_on() -> None:
    world, operator = await at_the_gate()
    world.command("approve", f"{revision(world)}#1")
    await run(world, operator, 100)
    assert world.status["stable"]["version"] == 2
    assert ("Resumed", "approved") in [(h["action"], h["message"]) for h in world.status["history"]]


async def test_a_resume_and_an_approval_of_another_revision_do_not() -> None:
    world, operator = await at_the_gate()
    world.command("resume", f"{revision(world)}#1")
    world.command("approve", "00000000#1")
    await run(world, operator, 30)
    assert world.status["reason"] == "AwaitingApproval"
    assert [e.reason for e in world.events].count("CommandIgnored") == 2


async def test_an_approval_before_it_is_asked_for_does_not_count() -> None:
    world = SimulatedWorld(spec(STEPS))
    operator = Operator(world)
    await run(world, operator, 10)
    world.aliases["prod"] = 2
    await run(world, operator, 2)
    world.command("approve", f"{revision(world)}#1")
    await run(world, operator, 60)
    assert world.status["reason"] == "AwaitingApproval"


async def test_a_pause_that_becomes_an_approval_asks_for_it() -> None:
    world = SimulatedWorld(spec([STEPS[0], {"pause": {}}, STEPS[2]]))
    operator = Operator(world)
    await run(world, operator, 10)
    world.aliases["prod"] = 2
    await run(world, operator, 60)
    assert world.status["reason"] == "PauseStep"
    world.command("approve", f"{revision(world)}#1")
    await run(world, operator, 5)
    assert world.status["reason"] == "PauseStep", "nobody has asked for an approval"
    world.edit(rollout=spec(STEPS)["rollout"])
    await run(world, operator, 5)
    assert world.status["reason"] == "AwaitingApproval"
    world.command("resume", f"{revision(world)}#1")
    await run(world, operator, 5)
    assert world.status["phase"] == "Paused"


async def test_promote_and_abort_work_at_the_gate() -> None:
    for verb, stable in (("promote", 2), ("abort", 1)):
        world, operator = await at_the_gate()
        world.command(verb, f"{revision(world)}#1")
        await run(world, operator, 60)
        assert (world.status["phase"], world.status["stable"]["version"]) == ("Stable", stable)
