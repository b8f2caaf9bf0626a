"""Rows of the table that are seldom reached, and what is said in them."""

from typing import Any

import pytest

from modelramp.api.spec import Spec
from modelramp.api.status import Status
from modelramp.domain.eprocess import least
from modelramp.domain.snapshot import Snapshot
from modelramp.domain.turn import Turn
from modelramp.domain.world import Fault, World
from modelramp.routers.relay import ROUTER
from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld, run, serves, serving, spec, until

BROKEN = Fault("LoadFailed", "does not load", models_own=True)
NODE_LOST = Fault("NodeLost", "the node is gone", models_own=False)


def conditions(world: SimulatedWorld) -> dict[str, str]:
    return {c["type"]: c["reason"] for c in world.status["conditions"]}


async def test_a_foreign_service_of_the_same_name_is_left_alone() -> None:
    world = SimulatedWorld(SPEC)
    world.foreign = "Service digits"
    operator = Operator(world)
    await run(world, operator, 5)
    assert world.status["reason"] == "NameConflict"
    assert not world.children
    world.foreign = ""
    await until(world, operator, serves(1))


async def test_a_spec_change_that_is_rejected_has_stalled() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, serves(2))
    world.behaviours[2] = Behaviour(fault=BROKEN)
    for pod in world.pods.values():
        pod.version = 0  # what serves goes on; only new pods are broken
    world.edit(server={"warmup": 3})
    await until(world, operator, lambda status: bool(status["rejected"]))
    await run(world, operator, 2)
    assert conditions(world)["Stalled"] == "LoadFailed"
    assert conditions(world)["Degraded"] == "LoadFailed"


async def test_a_first_revision_that_uses_up_its_time_stays_and_has_stalled() -> None:
    world = SimulatedWorld(SPEC)
    world.behaviours[1] = Behaviour(ready_after=200.0)
    operator = Operator(world)
    await run(world, operator, 70)
    assert (world.status["phase"], world.status["reason"]) == ("Pending", "ProgressDeadlineExceeded")
    assert conditions(world)["Stalled"] == "ProgressDeadlineExceeded"
    assert "Reconciling" not in conditions(world)
    await until(world, operator, serves(1))


async def test_a_version_that_is_asked_for_again_while_it_drains_stops_handing_over() -> None:
    world, operator = await serving(spec(rollbackWindow="0s", scaleDownDelay="2m"))
    await until(world, operator, serves(2))
    await run(world, operator, 3)
    old = {pod.name for pod in world.pods.values() if pod.version == 1}
    assert all(world.pods[name].weight == 100 for name in old), "they hand over"
    world.aliases["prod"] = 1
    await until(world, operator, lambda status: status["phase"] == "Ramping")
    await run(world, operator, 2)
    assert [world.pods[name].weight for name in old if name in world.pods] == [0] * len(old & world.pods.keys())
    await until(world, operator, serves(1))


async def test_without_a_verdict_in_time_it_may_be_taken_back() -> None:
    world, operator = await serving(spec(analysis={"maxDuration": "30s", "onInconclusive": "Abort"}))
    world.rps = 2.0
    await until(world, operator, serves(1))
    await until(world, operator, lambda status: bool(status["rejected"]))
    assert [(r["version"], r["reason"]) for r in world.status["rejected"]] == [(2, "Inconclusive")]


async def test_a_candidate_that_breaks_in_a_pause_is_taken_back() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "5s"}, {"pause": {}}]))
    await until(world, operator, lambda status: status["phase"] == "Paused")
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    await until(world, operator, lambda status: bool(status["rejected"]))
    assert world.status["rejected"][0]["reason"] == "AnalysisFailed"


async def test_a_broken_candidate_without_traffic_waits_for_a_person_where_the_spec_says_so() -> None:
    world, operator = await serving(spec(onFailure="Pause"))
    world.behaviours[2] = Behaviour(fault=BROKEN)
    await until(world, operator, lambda status: status["phase"] == "Paused")
    await run(world, operator, 30)
    assert [h["action"] for h in world.status["history"]].count("Paused") == 1
    assert world.status["reason"] == "LoadFailed"
    world.behaviours[2] = Behaviour()
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, serves(2))


async def test_taking_back_waits_for_pods_that_cannot_be_asked_until_the_ttl_is_over() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    world.deaf = True
    world.command("abort", f"{world.status['candidate']['revision']}#1")
    await run(world, operator, 100)
    assert world.status["phase"] == "Aborting"
    assert "take its share back" in world.status["message"]
    await run(world, operator, 30)
    assert serves(1)(world.status)


async def test_the_floor_under_an_autoscaler_follows_what_stable_grew_to() -> None:
    wanted = spec(steps=[{"weight": 50, "hold": "60s"}])
    wanted["scaling"] = {"minReplicas": 2, "maxReplicas": 10}
    world, operator = await serving(wanted)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    stable = world.deployment(world.status["stable"]["revision"])
    stable["spec"]["replicas"] = 4
    await run(world, operator, 3)
    assert world.status["candidate"]["floor"] == 8, "four pods carry half of the load"


async def test_a_candidate_grows_before_it_stands_in() -> None:
    wanted = spec(steps=[{"weight": 10, "hold": "10m"}])
    wanted["scaling"] = {"replicas": 4}
    world, operator = await serving(wanted)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    assert len([p for p in world.pods.values() if p.version == 2]) == 1
    world.behaviours[1] = Behaviour(fault=NODE_LOST)
    await until(world, operator, lambda status: status["reason"] == "StableDown")
    await until(world, operator, serves(2))
    assert len([p for p in world.pods.values() if p.version == 2]) == 4


async def test_stable_lost_in_the_bake_does_not_stop_it() -> None:
    world, operator = await serving(spec(bake="5m"))
    await until(world, operator, lambda status: status["reason"] == "Baking")
    world.behaviours[1] = Behaviour(fault=NODE_LOST)
    await until(world, operator, serves(2))
    assert world.status["history"][-1]["reason"] == "StableDown"
    assert "guard" not in world.status, "nothing warm is left to go back to"


async def test_a_split_that_nobody_can_read_counts_as_none() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, serves(2))
    for pod in world.pods.values():
        pod.split = "{}"
    world.lose_status()
    await until(world, operator, lambda status: status.get("stable") is not None)
    assert serves(2)(world.status)


def snapshot(status: Status) -> Snapshot:
    moment = SimulatedWorld(SPEC).now()
    return Snapshot(moment, "uid", 1, Spec.model_validate(SPEC), status, World(), None, None, router=ROUTER)


@pytest.mark.parametrize("part", ["candidate", "stable"])
def test_what_does_not_exist_is_not_asked(part: str) -> None:
    with pytest.raises(ValueError, match="without a"):
        getattr(Turn(snapshot(Status())), part)


def test_no_forecast_beyond_its_limit() -> None:
    assert least(lambda n: False, 100) is None
    assert least(lambda n: n >= 37, 100) == 37


async def test_errors_that_come_in_clusters_weigh_less() -> None:
    verdicts: dict[bool, Any] = {}
    for clustered in (False, True):
        world, operator = await serving(spec(steps=[{"weight": 50, "hold": "20s"}]))
        world.behaviours[2] = Behaviour(bad_rate=0.03)
        world.clustered = clustered
        await run(world, operator, 30)
        verdicts[clustered] = [r["reason"] for r in world.status["rejected"]]
    assert verdicts == {False: ["AnalysisFailed"], True: []}


async def test_a_deployment_that_may_make_no_pods_holds_and_rejects_nothing() -> None:
    world, operator = await serving(SPEC)
    world.quota = Fault("FailedCreate", "exceeded quota", models_own=False)
    world.behaviours[2] = Behaviour(ready_after=1e9)
    await until(world, operator, lambda status: status["reason"] == "FailedCreate")
    await until(world, operator, lambda status: status.get("backOff") is not None)
    assert world.status["rejected"] == []


async def test_a_candidate_in_gating_stands_in_for_a_stable_that_is_down() -> None:
    world, operator = await serving(SPEC)
    world.behaviours[2] = Behaviour(ready_after=45.0)
    world.behaviours[1] = Behaviour(fault=NODE_LOST)
    await until(world, operator, serves(2))
    assert world.status["history"][-1]["reason"] == "StableDown"


async def test_a_bake_without_evidence_is_held() -> None:
    world, operator = await serving(spec(bake="60s"))
    await until(world, operator, lambda status: status["reason"] == "Baking")
    world.rps = 0.0
    world.deaf = True
    await run(world, operator, 90)
    assert (world.status["phase"], world.status["reason"]) == ("Promoting", "NoEvidence")
    world.deaf = False
    world.rps = 100.0
    await until(world, operator, serves(2))


async def test_a_pause_whose_reason_was_lost_ends() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "5s"}, {"pause": {}}]))
    await until(world, operator, lambda status: status["phase"] == "Paused")
    del world.status["candidate"]["pause"]
    await until(world, operator, lambda status: status["phase"] == "Ramping")


async def test_one_pod_needs_no_disruption_budget() -> None:
    world, _ = await serving({**SPEC, "scaling": {"replicas": 1}})
    assert "PodDisruptionBudget" not in {kind.kind for kind, _ in world.children}


async def test_a_step_without_evidence_is_held_no_longer_than_the_time_for_a_verdict() -> None:
    world, operator = await serving(spec(analysis={"maxDuration": "1m"}))
    await until(world, operator, lambda status: status["reason"] == "Holding")
    world.deaf = True
    await until(world, operator, lambda status: status["phase"] == "Paused")
    assert world.status["reason"] == "Inconclusive"


async def test_an_alias_that_moves_while_promoting_supersedes_before_the_commit() -> None:
    world, operator = await serving(spec(bake="1m"))
    await until(world, operator, lambda status: status["reason"] == "Baking")
    world.aliases["prod"] = 3
    await until(world, operator, lambda status: status["phase"] == "Aborting")
    assert world.status["traffic"]["weight"] == 0
    await until(world, operator, serves(3))
    assert world.status["rejected"] == []
    assert [h["action"] for h in world.status["history"] if h["version"] == 2] == ["CandidateStarted", "Aborting"]


async def test_time_behind_a_gate_is_no_time_for_a_verdict() -> None:
    gates = {"tags": [{"name": "validated", "value": "true"}]}
    wanted = spec(gates=gates, analysis={"maxDuration": "2m", "onInconclusive": "Abort"})
    world = SimulatedWorld(wanted)
    world.tags_of = {1: {"validated": "true"}}
    operator = Operator(world)
    await until(world, operator, serves(1))
    world.aliases["prod"] = 2
    await run(world, operator, 1000, tick=2.0)
    assert world.status["reason"] == "AwaitingTag"
    world.tags_of[2] = {"validated": "true"}
    await until(world, operator, serves(2))


async def test_a_first_revision_behind_a_tag_has_not_stalled() -> None:
    world = SimulatedWorld(spec(gates={"tags": [{"name": "validated", "value": "true"}]}))
    operator = Operator(world)
    await run(world, operator, 300)
    assert world.status["reason"] == "AwaitingTag"
    assert "Stalled" not in conditions(world)


async def test_a_first_revision_that_fails_a_gate_is_not_asked_all_the_time() -> None:
    world = SimulatedWorld(spec(gates={"metrics": [{"name": "val_dice", "min": 0.8}]}))
    world.metrics_of = {1: {"val_dice": 0.5}}
    operator = Operator(world)
    await run(world, operator, 10)
    assert world.status["reason"] == "GateFailed"
    writes = len(world.writes)
    for _ in range(8):
        await operator.step()
    assert len(world.writes) == writes
    world.metrics_of[1] = {"val_dice": 0.9}
    await until(world, operator, serves(1))


async def test_a_last_wait_for_evidence_does_not_begin_again_and_again() -> None:
    world, operator = await serving(spec(bake="5s", analysis={"maxDuration": "1m", "onInconclusive": "Promote"}))
    await until(world, operator, lambda status: status["reason"] == "Baking")
    world.deaf = True
    await run(world, operator, 90)
    assert (world.status["phase"], world.status["reason"]) == ("Promoting", "NoEvidence")
    assert [event.reason for event in world.events].count("Promoting") == 1


async def test_after_a_crash_a_person_lets_it_begin_anew() -> None:
    world, operator = await serving(spec(onFailure="Pause"))
    await until(world, operator, lambda status: status["reason"] == "Holding")
    world.behaviours[2] = Behaviour(fault=BROKEN)
    await until(world, operator, lambda status: status["phase"] == "Paused")
    world.behaviours[2] = Behaviour()
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, lambda status: bool(status["traffic"]["weight"]))
    assert world.status["traffic"]["weight"] == 10
    assert world.status["candidate"]["attempt"] == 2
    await until(world, operator, serves(2))


async def test_a_status_that_was_lost_does_not_obey_old_commands_again() -> None:
    world, operator = await serving(SPEC)
    world.behaviours[2] = Behaviour(fault=BROKEN)
    await until(world, operator, lambda status: bool(status["rejected"]))
    revision = world.status["rejected"][0]["revision"]
    world.command("retry", f"{revision}#1")
    await until(world, operator, lambda status: status["phase"] == "Gating")
    await until(world, operator, lambda status: status["phase"] == "Stable")
    assert world.owner is not None
    annotations = dict(world.owner["metadata"]["annotations"])
    world.lose_status()
    world.owner["metadata"]["annotations"] = annotations
    await run(world, operator, 10)
    assert world.status["rejected"][0]["revision"] == revision
    assert world.status["reason"] == "Rejected"
    assert [h["action"] for h in world.status["history"]] == ["Adopted"]


async def test_an_alias_that_is_gone_is_told_once_also_while_suspended() -> None:
    world, operator = await serving(SPEC)
    world.edit(suspend=True)
    del world.aliases["prod"]
    await run(world, operator, 20)
    assert [event.reason for event in world.events].count("AliasNotFound") == 1


async def test_a_rollout_by_alias_blocks_nobody_who_waits_for_the_spec() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    assert set(conditions(world)) == {"Ready", "RolloutProgressing"}


async def test_intent_stands_in_the_status_before_anything_acts_on_it() -> None:
    world, operator = await serving(SPEC)
    while not serves(2)(world.status):
        begun = len(world.writes)
        await operator.step()
        first, *later = world.writes[begun:] or [""]
        assert not [write for write in later if write.startswith("status")], f"{first} came before the status"
        world.tick(0.5)


async def test_a_status_that_was_lost_leaves_no_share_to_a_candidate_behind_a_gate() -> None:
    wanted = spec(steps=[{"weight": 50, "hold": "10m"}], gates={"tags": [{"name": "validated", "value": "true"}]})
    world = SimulatedWorld(wanted)
    world.tags_of = {1: {"validated": "true"}, 2: {"validated": "true"}}
    operator = Operator(world)
    await until(world, operator, serves(1))
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: s["reason"] == "Holding")
    del world.tags_of[2]["validated"]
    world.lose_status()
    operator = Operator(world)
    status = await until(world, operator, lambda s: s.get("phase") == "Gating")
    await run(world, operator, 2)
    assert status["traffic"]["weight"] == 0
    assert [pod.weight for pod in world.pods.values() if pod.version == 1] == [0, 0]


async def test_a_change_of_the_spec_that_waits_for_its_next_try_is_reconciling() -> None:
    """To those who deploy by it, "Current" would say that it serves."""
    world, operator = await serving(SPEC)
    await until(world, operator, serves(2))
    world.aliases["next"] = 3
    world.behaviours[3] = Behaviour(fault=Fault("Unschedulable", "no room", models_own=False))
    world.edit(model={"name": "digits", "alias": "next"})
    await until(world, operator, lambda s: "backOff" in s and "candidate" not in s)
    assert conditions(world)["Reconciling"] == world.status["reason"]
    status = await until(world, operator, lambda s: "candidate" in s)
    assert status["candidate"]["cause"] == "Spec", "the same rollout"


async def test_a_change_of_the_spec_is_not_observed_while_what_it_supersedes_is_taken_back() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda s: s["reason"] == "Holding")
    world.edit(server={"warmup": 3})
    status = await until(world, operator, lambda s: s["phase"] == "Aborting")
    await operator.step()
    assert status["observedGeneration"] == 1
    await until(world, operator, lambda s: (s.get("candidate") or {}).get("cause") == "Spec")
    await operator.step()
    assert world.status["observedGeneration"] == 2 and "Reconciling" in conditions(world)


async def test_in_the_bake_errors_are_looked_for_whatever_the_alias_names() -> None:
    world, operator = await serving(spec(bake="1m"))
    await until(world, operator, lambda s: s["reason"] == "Baking")
    del world.aliases["prod"]
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    await until(world, operator, lambda s: s["traffic"]["weight"] == 0, 30)
