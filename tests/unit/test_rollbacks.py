"""Back to what served before: by the operator itself, by command, by the alias; and when stable is down."""

import json
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from modelramp.api.status import Status
from modelramp.desired.meta import REVISION_LABEL
from modelramp.domain.changes import Outcome, ended
from modelramp.domain.freeze import Freeze
from modelramp.domain.world import Fault
from modelramp.engine.fleet import Fleet
from modelramp.ports import Kind
from tests.unit.gateway_world import GATEWAY_SPEC, GatewayWorld
from tests.unit.simulation import KEY, SPEC, Behaviour, Operator, SimulatedWorld, run, serves, serving, spec, until

BROKEN = Fault("CrashLoop", "its server died again and again", models_own=True)
NODE_LOST = Fault("NodeLost", "the node is gone", models_own=False)


def events(world: SimulatedWorld) -> list[str]:
    return [event.reason for event in world.events]


def actions(world: SimulatedWorld, count: int) -> list[tuple[str, str, int]]:
    return [(h["action"], h["reason"], h["version"]) for h in world.status["history"][-count:]]


def rejected(world: SimulatedWorld) -> list[tuple[int, str]]:
    return [(r["version"], r["reason"]) for r in world.status["rejected"]]


def selected(world: SimulatedWorld) -> str:
    return str(world.children[Kind("v1", "Service"), KEY.name]["spec"]["selector"][REVISION_LABEL])


async def promoted(wanted: dict[str, Any]) -> tuple[SimulatedWorld, Operator]:
    """Version 2 has just been promoted; version 1's pods are still warm."""
    world, operator = await serving(wanted)
    await until(world, operator, serves(2))
    return world, operator


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(bad_rate=0.1), "AnalysisFailed"),
        (Behaviour(refused_rate=0.1), "AnalysisFailed"),
        (Behaviour(fault=BROKEN), "CrashLoop"),
    ],
    ids=["answers", "refusals", "pods"],
)
async def test_what_goes_bad_just_after_its_promotion_is_taken_back(behaviour: Behaviour, reason: str) -> None:
    world, operator = await promoted(spec(scaleDownDelay="60s"))
    warm = {name for name, pod in world.pods.items() if pod.version == 1}
    world.behaviours[2] = behaviour
    await until(world, operator, serves(1))
    assert rejected(world) == [(2, reason)]
    assert actions(world, 1) == [("RolledBack", reason, 1)]
    assert {name for name, pod in world.pods.items() if pod.version == 1} == warm, "the same pods serve again"
    await run(world, operator, 90)
    assert {pod.version for pod in world.pods.values()} == {1}
    assert all(pod.weight == 0 for pod in world.pods.values()), "nobody hands over to what was taken back"
    assert (world.status["phase"], world.status["reason"]) == ("Stable", "Rejected")


OVERLOADED = Behaviour(refused_rate=0.3)


async def promoted_from_overload(bursts: bool = False) -> tuple[SimulatedWorld, Operator]:
    """Version 2 has just been promoted, and refuses as much as version 1 did."""
    world, operator = await serving(spec(scaleDownDelay="60s"))
    world.bursts = bursts
    world.behaviours = {1: OVERLOADED, 2: OVERLOADED}
    await until(world, operator, serves(2))
    return world, operator


async def test_what_refuses_as_much_as_the_one_before_it_stays() -> None:
    world, operator = await promoted_from_overload()
    await run(world, operator, 70)
    assert serves(2)(world.status), rejected(world)
    assert "guard" not in world.status


async def test_what_refuses_far_more_than_the_one_before_it_is_taken_back() -> None:
    world, operator = await promoted_from_overload()
    world.behaviours[2] = Behaviour(refused_rate=0.8)
    await until(world, operator, serves(1), 50)
    assert rejected(world) == [(2, "AnalysisFailed")]


async def test_refusals_in_bursts_do_not_roll_back_at_once() -> None:
    world, operator = await promoted_from_overload(bursts=True)
    world.behaviours[2] = Behaviour(refused_rate=0.8)
    await run(world, operator, 9)
    assert serves(2)(world.status)


OLDER_SIDES = {"candidate": "candidate", "stable": "stable", "answered": "dealt", "refused": "refused"}


def by_an_older_release(memory: str, sides: dict[str, str]) -> str:
    """What a release wrote that knew of no refusals: `sides` by the names that they had."""
    data = json.loads(memory)
    refused = {at: requests for at, (requests, _) in data.get("stable_refused", {}).items()}
    older = {was: data[now] for was, now in sides.items()}
    if "answered" in older:
        older["answered"] = {at: [n - refused[at], bad] for at, (n, bad) in older["answered"].items()}
    return json.dumps({"tests": data["tests"], "noted": {}, **older})


@pytest.mark.parametrize("kind", [SimulatedWorld, GatewayWorld])
async def test_an_operator_that_is_upgraded_in_mid_rollout_begins_afresh(
    kind: type[SimulatedWorld],
) -> None:
    """What was counted before is a baseline of both sides."""
    world = kind(GATEWAY_SPEC if kind is GatewayWorld else SPEC)
    world.behaviours = {1: OVERLOADED, 2: OVERLOADED}
    operator = Operator(world)
    await until(world, operator, serves(1))
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: s["traffic"]["weight"] == 50 and s["reason"] == "Holding")
    evidence = world.status["evidence"][0]
    evidence["state"] = by_an_older_release(evidence["state"], OLDER_SIDES)
    looked, stable = evidence["lookedAt"], evidence["stableRequests"]
    await until(world, operator, lambda s: s["evidence"][0]["lookedAt"] != looked)
    evidence = world.status["evidence"][0]
    assert (evidence["requests"], evidence["stableRequests"]) == (0, stable) and stable
    await until(world, operator, serves(2))
    await run(world, operator, 20)
    assert serves(2)(world.status), rejected(world)


async def test_an_operator_that_is_upgraded_in_the_bake_remembers_what_stable_was_allowed() -> None:
    """Stable has no more requests by then, to compare with."""
    world, operator = await serving(spec(bake="30s"))
    world.behaviours = {1: Behaviour(bad_rate=0.04), 2: Behaviour(bad_rate=0.04)}
    await until(world, operator, lambda s: s["reason"] == "Baking")
    evidence = world.status["evidence"][0]
    evidence["state"] = by_an_older_release(evidence["state"], OLDER_SIDES)
    await until(world, operator, serves(2))
    await run(world, operator, 20)
    assert serves(2)(world.status), rejected(world)


async def test_an_operator_that_is_upgraded_just_after_a_promotion_counts_from_then_on() -> None:
    """By what the rollout has accepted: refusals before are not taken for new ones."""
    world, operator = await promoted_from_overload()
    await run(world, operator, 20)
    guard = world.status["guard"]
    guard["state"] = by_an_older_release(guard["state"], {"serving": "local"})
    older = json.loads(guard["state"])
    older["serving"] = {at: [requests - bad, 0] for at, (requests, bad) in older["serving"].items()}
    guard["state"] = json.dumps(older)
    await run(world, operator, 30)
    assert serves(2)(world.status), rejected(world)
    world.behaviours[2] = Behaviour(refused_rate=0.8)
    await run(world, operator, 10)
    assert serves(1)(world.status)


async def test_what_goes_bad_when_nothing_warm_is_left_stays() -> None:
    world, operator = await promoted(spec(scaleDownDelay="10s"))
    await run(world, operator, 30)
    world.behaviours[2] = Behaviour(bad_rate=0.1)
    await run(world, operator, 60)
    assert serves(2)(world.status)
    assert "guard" not in world.status


async def test_a_lost_node_after_a_promotion_is_not_the_versions_fault() -> None:
    world, operator = await promoted(spec(scaleDownDelay="60s"))
    world.behaviours[2] = Behaviour(fault=NODE_LOST)
    await run(world, operator, 20)
    assert serves(2)(world.status)
    assert rejected(world) == []


async def test_a_few_errors_that_the_rollout_accepted_are_accepted_after_it() -> None:
    world, operator = await promoted(spec(scaleDownDelay="60s"))
    world.behaviours[2] = Behaviour(bad_rate=0.005)
    await run(world, operator, 70)
    assert serves(2)(world.status)


async def test_a_former_stable_comes_back_without_steps() -> None:
    world, operator = await promoted(SPEC)
    await run(world, operator, 30)
    world.aliases["prod"] = 1
    weights = set()
    for _ in range(60):
        await operator.step()
        weights.add(world.status["traffic"]["weight"])
        world.tick(0.5)
    assert weights == {0, 100}
    assert actions(world, 2) == [("CandidateStarted", "Alias", 1), ("Promoted", "ServedBefore", 1)]
    assert serves(1)(world.status)
    assert rejected(world) == []


async def test_a_former_stable_must_be_ready_before_it_comes_back() -> None:
    world, operator = await promoted(SPEC)
    await run(world, operator, 30)
    world.behaviours[1] = Behaviour(fault=BROKEN)
    world.aliases["prod"] = 1
    await run(world, operator, 30)
    assert serves(2)(world.status)
    assert rejected(world) == [(1, "CrashLoop")]


async def test_after_the_rollback_window_a_former_stable_is_ramped_like_any_other() -> None:
    world, operator = await promoted(spec(rollbackWindow="20s"))
    await run(world, operator, 30)
    assert world.status["former"] == []
    assert len([1 for kind, _ in world.children if kind.kind == "ControllerRevision"]) == 1
    world.aliases["prod"] = 1
    await until(world, operator, lambda status: bool(status["traffic"]["weight"]))
    assert world.status["traffic"]["weight"] == 10


async def test_what_comes_back_is_as_large_as_an_autoscaler_made_what_it_takes_over_from() -> None:
    wanted = spec(scaleDownDelay="1m")
    wanted["scaling"] = {"minReplicas": 2, "maxReplicas": 10}
    world, operator = await promoted(wanted)
    grown = Kind("apps/v1", "Deployment"), f"digits-{world.status['stable']['revision']}"
    world.children[grown]["spec"]["replicas"] = 8
    await run(world, operator, 5)
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    status = await until(world, operator, serves(1))
    await operator.step()
    back = Kind("apps/v1", "Deployment"), f"digits-{status['stable']['revision']}"
    autoscaler = Kind("autoscaling/v2", "HorizontalPodAutoscaler"), KEY.name
    assert world.children[back]["spec"]["replicas"] == world.children[autoscaler]["spec"]["minReplicas"] == 8
    world.children[back]["spec"]["replicas"] = 9
    await run(world, operator, 5)
    assert world.children[back]["spec"]["replicas"] == 9, "the autoscaler may want more"
    await run(world, operator, 60)
    assert world.children[autoscaler]["spec"]["minReplicas"] == 2
    world.children[back]["spec"]["replicas"] = 3
    await run(world, operator, 5)
    assert world.children[back]["spec"]["replicas"] == 3, "or fewer"


@pytest.mark.parametrize("warm", [True, False])
async def test_a_commanded_rollback_rejects_what_it_leaves(warm: bool) -> None:
    world, operator = await promoted(spec(scaleDownDelay="10s"))
    former = world.status["former"][0]["revision"]
    if not warm:
        await run(world, operator, 30)
        assert not any(pod.version == 1 for pod in world.pods.values())
    world.command("rollback", f"{former}#1")
    await until(world, operator, serves(1))
    assert rejected(world) == [(2, "RollbackCommanded")]
    await run(world, operator, 60)
    assert serves(1)(world.status)
    assert selected(world) == former


async def test_a_rollback_to_what_never_served_is_ignored() -> None:
    world, operator = await promoted(SPEC)
    world.command("rollback", "00000000#1")
    await operator.step()
    assert "CommandIgnored" in events(world)
    assert serves(2)(world.status)


async def test_a_ready_candidate_stands_in_for_a_stable_that_is_down() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    world.behaviours[1] = Behaviour(fault=NODE_LOST)
    await run(world, operator, 20)
    assert world.status["stable"]["version"] == 1, "it may come back"
    await until(world, operator, serves(2))
    assert actions(world, 1) == [("Promoted", "StableDown", 2)]
    assert "StableDown" in events(world)


async def test_a_stable_that_is_down_for_a_moment_changes_nothing() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    world.behaviours[1] = Behaviour(fault=NODE_LOST)
    await run(world, operator, 10)
    world.behaviours[1] = Behaviour()
    await until(world, operator, serves(2))
    assert actions(world, 1) == [("Promoted", "StepsDone", 2)]


async def test_a_failing_candidate_does_not_stand_in() -> None:
    world = SimulatedWorld(SPEC)
    operator = Operator(world)
    await until(world, operator, lambda status: status.get("stable") is not None)
    world.behaviours[2] = Behaviour(fault=BROKEN)
    world.aliases["prod"] = 2
    world.behaviours[1] = Behaviour(fault=NODE_LOST)
    await run(world, operator, 60)
    assert world.status["stable"]["version"] == 1


async def test_when_the_alias_is_deleted_the_rollout_holds_and_then_goes_back() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    del world.aliases["prod"]
    await run(world, operator, 200)
    assert world.status["phase"] == "Ramping"
    await until(world, operator, serves(1))
    assert world.status["history"][-1]["reason"] == "AliasNotFound"
    assert rejected(world) == []
    world.aliases["prod"] = 2
    await until(world, operator, serves(2))


async def test_pauses_and_suspension_count_for_no_deadline() -> None:
    steps = [{"weight": 10, "hold": "5s"}, {"pause": {}}, {"weight": 50, "hold": "5s"}]
    wanted = spec(steps=steps, analysis={"maxDuration": "2m", "onInconclusive": "Abort"})
    world = SimulatedWorld(wanted)
    operator = Operator(world)
    await until(world, operator, lambda status: status.get("stable") is not None)
    world.rps = 2.0
    world.aliases["prod"] = 2
    await until(world, operator, lambda status: status["phase"] == "Paused")
    await run(world, operator, 150)
    world.edit(suspend=True)
    await run(world, operator, 150)
    world.edit(suspend=False)
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, lambda status: status["reason"] == "AwaitingVerdict")
    world.rps = 200.0
    await until(world, operator, serves(2))


async def test_a_suspension_within_a_pause_is_counted_once() -> None:
    steps = [{"weight": 10, "hold": "5s"}, {"pause": {}}, {"weight": 50, "hold": "5s"}]
    world = SimulatedWorld(spec(steps=steps, analysis={"maxDuration": "2m"}))
    operator = Operator(world)
    await until(world, operator, serves(1))
    world.rps = 2.0
    world.aliases["prod"] = 2
    await until(world, operator, lambda status: status["phase"] == "Paused")
    world.edit(suspend=True)
    await run(world, operator, 3600, tick=5)
    world.edit(suspend=False)
    await run(world, operator, 2)
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, lambda status: status["reason"] == "Inconclusive")


async def test_a_candidate_whose_next_pods_never_come_is_given_back_and_tried_again() -> None:
    wanted = spec(steps=[{"weight": 10, "hold": "5s"}, {"weight": 90, "hold": "5s"}])
    wanted["scaling"] = {"replicas": 4}
    world, operator = await serving(wanted)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    world.behaviours[2] = Behaviour(ready_after=1e9)
    for pod in world.pods.values():
        if pod.version == 2:
            pod.born = -1e9
    await until(world, operator, lambda status: status["reason"] == "Sizing")
    await until(world, operator, lambda status: status["phase"] == "Stable")
    assert rejected(world) == []
    assert world.status["backOff"]["failures"] == 1
    assert serves(1)(world.status)


async def test_a_guard_that_this_release_did_not_write_begins_afresh() -> None:
    world, operator = await promoted(spec(scaleDownDelay="60s"))
    world.status["guard"]["state"] = "not ours"
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    await until(world, operator, serves(1))


async def test_no_rollback_to_a_revision_whose_memory_was_deleted() -> None:
    world, operator = await promoted(spec(scaleDownDelay="5s"))
    await run(world, operator, 20)
    former = world.status["former"][0]["revision"]
    del world.children[Kind("apps/v1", "ControllerRevision"), f"digits-{former}"]
    world.command("rollback", f"{former}#1")
    await run(world, operator, 5)
    assert serves(2)(world.status)
    assert "CommandIgnored" in events(world)


async def test_a_rollback_ends_as_one() -> None:
    world, operator = await promoted(spec(scaleDownDelay="60s"))
    before = Status.model_validate(world.status)
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    await until(world, operator, serves(1))
    assert ended(before, Status.model_validate(world.status)) is Outcome.ROLLED_BACK


async def test_going_back_needs_no_gate_and_waits_for_no_freeze() -> None:
    world, _ = await promoted(SPEC)
    world.edit(rollout={**SPEC["rollout"], "gates": {"metrics": [{"name": "val_dice", "min": 0.8}]}})
    frozen = [Freeze("* * * * *", timedelta(days=1), ZoneInfo("UTC"), ("*",))]
    operator = Operator(world, fleet=Fleet(world, None, frozen))
    world.aliases["prod"] = 3
    await run(world, operator, 5)
    assert world.status["reason"] == "Frozen"
    world.aliases["prod"] = 1
    await until(world, operator, serves(1))


async def test_a_rollback_by_itself_needs_no_rollback_window() -> None:
    world, operator = await promoted(spec(scaleDownDelay="60s", rollbackWindow="0s"))
    world.behaviours[2] = Behaviour(fault=BROKEN)
    await until(world, operator, serves(1))


async def test_somebody_who_went_back_is_not_overruled() -> None:
    world, operator = await promoted(spec(scaleDownDelay="40s"))
    await run(world, operator, 60)
    world.command("rollback", f"{world.status['former'][0]['revision']}#1")
    await until(world, operator, serves(1))
    world.behaviours[1] = Behaviour(bad_rate=0.05)
    await run(world, operator, 60)
    assert serves(1)(world.status)
    assert rejected(world) == [(2, "RollbackCommanded")]
    assert world.status["former"] == [], "what was rejected does not come back without proof"


async def test_a_commanded_rollback_goes_on_whatever_the_alias_names() -> None:
    world, operator = await promoted(SPEC)
    await run(world, operator, 30)
    world.behaviours[3] = Behaviour(fault=BROKEN)
    world.aliases["prod"] = 3
    await until(world, operator, lambda status: status["reason"] == "Rejected")
    world.command("rollback", f"{world.status['former'][0]['revision']}#1")
    await until(world, operator, serves(1))


async def test_errors_in_clusters_do_not_roll_back_at_once() -> None:
    world = SimulatedWorld(spec(scaleDownDelay="10s", analysis={"objectives": {"errorRate": 0.05}}))
    world.clustered = True
    operator = Operator(world)
    await until(world, operator, lambda status: status.get("stable") is not None)
    world.rps = 5000.0
    world.aliases["prod"] = 2
    await until(world, operator, serves(2))
    world.rps = 100.0
    world.behaviours[2] = Behaviour(bad_rate=0.12)
    await run(world, operator, 9)
    assert serves(2)(world.status)


async def test_going_back_does_not_wait_for_a_stable_that_says_nothing() -> None:
    world, operator = await promoted(SPEC)
    await run(world, operator, 30)
    world.aliases["prod"] = 1
    await until(world, operator, lambda status: status["phase"] == "Promoting")
    world.deaf = True
    await run(world, operator, 100)
    assert serves(2)(world.status) or world.status["phase"] == "Promoting"
    await until(world, operator, serves(1))
