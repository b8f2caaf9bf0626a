"""What people command by annotation, and what suspension and edits in the middle do."""

from typing import Any

import pytest

from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld, run, serves, serving, spec, until

LONG = [{"weight": 10, "hold": "10m"}, {"weight": 50, "hold": "5s"}]


def candidate(world: SimulatedWorld) -> str:
    return str(world.status["candidate"]["revision"])


def holding(status: dict[str, Any]) -> bool:
    return bool(status["reason"] == "Holding")


async def ramping() -> tuple[SimulatedWorld, Operator]:
    world, operator = await serving(spec(steps=LONG))
    await until(world, operator, holding)
    return world, operator


async def test_abort_takes_back_and_rejects_and_beats_promote() -> None:
    world, operator = await ramping()
    world.command("promote", f"{candidate(world)}#1")
    world.command("abort", f"{candidate(world)}#1")
    await until(world, operator, serves(1))
    assert [(r["version"], r["reason"]) for r in world.status["rejected"]] == [(2, "AbortCommanded")]
    assert "Promoting" not in [event.reason for event in world.events]
    assert world.status["commands"] == {"abort": f"{world.status['rejected'][0]['revision']}#1"} | {
        "promote": f"{world.status['rejected'][0]['revision']}#1"
    }


async def test_pause_holds_the_weight_until_resume() -> None:
    world, operator = await ramping()
    world.command("pause", f"{candidate(world)}#1")
    await run(world, operator, 900)
    assert (world.status["phase"], world.status["reason"]) == ("Paused", "PauseCommanded")
    assert world.status["traffic"]["weight"] == 10
    world.command("resume", f"{candidate(world)}#1")
    await until(world, operator, serves(2))


async def test_promote_skips_what_is_left_of_the_steps() -> None:
    world, operator = await ramping()
    world.command("promote", f"{candidate(world)}#1")
    await until(world, operator, lambda status: status["phase"] == "Promoting")
    await until(world, operator, serves(2))


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "rollback", "retry"])
async def test_a_command_that_does_not_fit_is_ignored_once(verb: str) -> None:
    world, operator = await serving(SPEC)
    world.behaviours[2] = Behaviour(ready_after=1e9)
    await until(world, operator, lambda status: status["phase"] == "Gating")
    world.command(verb, f"{candidate(world)}#1")
    await run(world, operator, 3)
    assert [event.reason for event in world.events].count("CommandIgnored") == 1
    assert world.status["phase"] == "Gating"


async def test_a_command_for_another_revision_is_ignored() -> None:
    world, operator = await ramping()
    world.command("abort", "00000000#1")
    await operator.step()
    assert world.status["phase"] == "Ramping"
    assert world.events[-1].reason == "CommandIgnored"


async def test_promote_after_a_failure_goes_on_all_the_same() -> None:
    world, operator = await serving(spec(onFailure="Pause"))
    world.behaviours[2] = Behaviour(bad_rate=0.1)
    await until(world, operator, lambda status: status["phase"] == "Paused")
    assert world.status["traffic"]["weight"] == 0
    world.behaviours[2] = Behaviour()
    attempt = world.status["candidate"]["attempt"]
    world.command("promote", f"{candidate(world)}#1")
    await until(world, operator, lambda status: status["phase"] == "Promoting")
    assert world.status["candidate"]["attempt"] == attempt + 1
    await until(world, operator, serves(2))


async def test_promote_after_a_failure_remembers_what_stable_fails() -> None:
    """At 100 % it gets no requests that would tell."""
    world, operator = await serving(spec(bake="1m", onFailure="Pause", steps=[{"weight": 10, "hold": "1m"}]))
    world.behaviours = {1: Behaviour(bad_rate=0.04), 2: Behaviour(bad_rate=0.04)}
    await until(world, operator, lambda s: s["reason"] == "Holding")
    await run(world, operator, 30)
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    await until(world, operator, lambda s: s["phase"] == "Paused")
    world.behaviours[2] = Behaviour(bad_rate=0.04)
    world.command("promote", f"{candidate(world)}#1")
    await until(world, operator, serves(2))


async def test_no_attempt_of_a_revision_has_the_number_of_another() -> None:
    """An approval that was signed for one fits no other."""
    world, operator = await serving(spec(onFailure="Pause"))
    world.behaviours[2] = Behaviour(bad_rate=0.3)
    await until(world, operator, lambda s: s["phase"] == "Paused")
    world.command("resume", f"{candidate(world)}#1")
    await run(world, operator, 3)
    resumed = world.status["candidate"]["attempt"]
    world.aliases["prod"] = 1
    await until(world, operator, serves(1))
    world.aliases["prod"] = 2
    status = await until(world, operator, lambda s: "candidate" in s)
    assert status["candidate"]["attempt"] == resumed + 1


async def test_resume_asks_undecided_evidence_again() -> None:
    world, operator = await serving(spec(analysis={"maxDuration": "30s"}))
    world.rps = 2.0
    await until(world, operator, lambda status: status["reason"] == "Inconclusive")
    assert world.status["phase"] == "Paused"
    attempt = world.status["candidate"]["attempt"]
    world.command("resume", f"{candidate(world)}#1")
    world.rps = 500.0
    await until(world, operator, serves(2))
    assert world.status["history"][-1]["attempt"] == attempt


async def test_without_a_verdict_in_time_it_may_be_promoted() -> None:
    world, operator = await serving(spec(analysis={"maxDuration": "30s", "onInconclusive": "Promote"}))
    world.rps = 2.0
    await until(world, operator, serves(2))


async def test_steps_edited_in_the_middle_go_on_from_the_highest_not_above_the_weight() -> None:
    world, operator = await ramping()
    steps = [{"weight": 5, "hold": "5s"}, {"weight": 8, "hold": "5s"}, {"weight": 60, "hold": "5s"}]
    world.edit(rollout={**SPEC["rollout"], "steps": steps})
    await until(world, operator, lambda status: status["traffic"]["weight"] != 10)
    assert (world.status["traffic"]["weight"], world.status["step"]["index"]) == (8, 1)
    await until(world, operator, serves(2))


async def test_steps_edited_to_higher_ones_only_begin_with_the_first() -> None:
    world, operator = await ramping()
    world.edit(rollout={**SPEC["rollout"], "steps": [{"weight": 30, "hold": "5s"}]})
    await until(world, operator, lambda status: status["traffic"]["weight"] != 10)
    assert world.status["traffic"]["weight"] == 30


async def test_steps_edited_to_fewer_ones_are_not_taken_for_done() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "10s"}, {"weight": 50, "hold": "1m"}]))
    await until(world, operator, lambda s: s["traffic"]["weight"] == 50 and s["evidence"][0]["verdict"] == "Pass")
    world.edit(rollout={**SPEC["rollout"], "steps": [{"weight": 50, "hold": "24h"}]})
    await run(world, operator, 120)
    assert (world.status["reason"], world.status["step"]["index"]) == ("Holding", 0)


async def test_a_pause_step_that_is_edited_away_is_over() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "5s"}, {"pause": {}}]))
    await until(world, operator, lambda status: status["phase"] == "Paused")
    world.edit(rollout={**SPEC["rollout"], "steps": [{"weight": 10, "hold": "5s"}]})
    await until(world, operator, serves(2))


async def test_suspension_holds_the_weight_and_aborts_nothing() -> None:
    world, operator = await ramping()
    world.edit(suspend=True)
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    generation = world.status["traffic"]["generation"]
    await run(world, operator, 200)
    assert (world.status["phase"], world.status["reason"]) == ("Ramping", "Suspended")
    assert world.status["traffic"]["weight"] == 10
    assert world.status["traffic"]["generation"] > generation, "the split is renewed"
    world.edit(suspend=False)
    await until(world, operator, serves(1))


async def test_suspended_at_rest_it_waits() -> None:
    world, operator = await serving(SPEC)
    world.edit(suspend=True)
    await run(world, operator, 10)
    assert "candidate" not in world.status
    world.edit(suspend=False)
    await until(world, operator, serves(2))
