"""What goes wrong while a rollout is on its way, and must not make it worse."""

import dataclasses
from typing import Any

import pytest

from modelramp.domain.world import Fault, PodMetrics, SplitCounts
from modelramp.ports import Kind
from tests.unit.simulation import (
    DEPLOYMENT,
    KEY,
    SPEC,
    Behaviour,
    Operator,
    SimPod,
    SimulatedWorld,
    run,
    serving,
    spec,
    until,
)

UNSCHEDULABLE = Fault("Unschedulable", "no node fits", models_own=False)
MINUTES = 600.0


def baking(status: dict[str, Any]) -> bool:
    return bool(status["reason"] == "Baking")


async def test_no_promotion_of_a_candidate_that_has_lost_its_pods() -> None:
    world, operator = await serving(spec(bake="20s"))
    await until(world, operator, baking)
    world.behaviours[2] = Behaviour(fault=UNSCHEDULABLE)
    await run(world, operator, 60)
    assert world.status["phase"] == "Promoting"
    assert world.status["stable"]["version"] == 1


async def test_a_bake_counts_only_time_in_which_the_weight_was_in_force() -> None:
    world, operator = await serving(spec(bake="60s"))
    await until(world, operator, baking)
    world.tick(MINUTES)
    operator = Operator(world)
    await operator.step()
    await operator.step()
    assert world.status["phase"] == "Promoting"
    await run(world, operator, 120)
    assert world.status["stable"]["version"] == 2


async def test_a_pause_as_the_last_step_ends() -> None:
    steps = [{"weight": 10, "hold": "2s"}, {"pause": {"duration": "5s"}}]
    world, operator = await serving(spec(steps=steps))
    await until(world, operator, lambda status: status["phase"] == "Paused")
    await run(world, operator, 120)
    assert world.status["stable"]["version"] == 2


@pytest.mark.parametrize("interruption", ["suspend", "alias"])
async def test_a_pause_survives_what_else_is_said_meanwhile(interruption: str) -> None:
    steps = [{"weight": 10, "hold": "2s"}, {"pause": {"duration": "20s"}}, {"weight": 50, "hold": "2s"}]
    world, operator = await serving(spec(steps=steps))
    await until(world, operator, lambda status: status["phase"] == "Paused")
    if interruption == "suspend":
        world.edit(suspend=True)
        await run(world, operator, 3)
        world.edit(suspend=False)
    else:
        del world.aliases["prod"]
        await run(world, operator, 3)
        world.aliases["prod"] = 2
    await run(world, operator, 120)
    assert world.status["stable"]["version"] == 2


async def test_after_a_pause_for_failure_a_person_can_go_on() -> None:
    world, operator = await serving(spec(onFailure="Pause"))
    world.behaviours[2] = Behaviour(bad_rate=0.1)
    await until(world, operator, lambda status: status["phase"] == "Paused")
    assert world.status["traffic"]["weight"] == 0
    world.behaviours[2] = Behaviour()
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await run(world, operator, 90)
    assert world.status["stable"]["version"] == 2


async def test_an_autoscaled_stable_does_not_grow_under_constant_load() -> None:
    wanted = spec(steps=[{"weight": 10, "hold": "60s"}, {"weight": 50, "hold": "60s"}])
    wanted["scaling"] = {"minReplicas": 2, "maxReplicas": 50}
    world, operator = await serving(wanted)
    sizes = set()
    for _ in range(300):
        await operator.step()
        world.tick(0.5)
        autoscaler = world.children[Kind("autoscaling/v2", "HorizontalPodAutoscaler"), KEY.name]
        target = (DEPLOYMENT, autoscaler["spec"]["scaleTargetRef"]["name"])
        deployment = world.children[target]
        size = max(deployment["spec"]["replicas"], autoscaler["spec"]["minReplicas"])
        world.children[target] = {**deployment, "spec": {**deployment["spec"], "replicas": size}}
        sizes.add(size)
    assert sizes == {2}
    assert world.status["stable"]["version"] == 2


async def test_time_without_a_node_is_not_the_models() -> None:
    world, operator = await serving(SPEC)
    world.behaviours[2] = Behaviour(fault=UNSCHEDULABLE)
    await run(world, operator, 50)
    for pod in world.pods.values():
        pod.born = world.time
    world.behaviours[2] = Behaviour(ready_after=20.0)
    await run(world, operator, 100)
    assert not world.status["rejected"]
    assert world.status["stable"]["version"] == 2


async def test_a_step_is_held_while_nobody_answers_for_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SimulatedWorld._metrics

    def refused(self: SimulatedWorld, pod: SimPod) -> PodMetrics:
        told = honest(self, pod)
        splits = {
            salt: SplitCounts(candidate_error=c.candidate_ok, stable_ok=c.stable_ok) if salt else c
            for salt, c in told.splits.items()
        }
        return dataclasses.replace(told, splits=splits)

    monkeypatch.setattr(SimulatedWorld, "_metrics", refused)
    world, operator = await serving(SPEC)
    await run(world, operator, 60)
    assert (world.status["phase"], world.status["reason"]) == ("Ramping", "NoEvidence")
    assert world.status["traffic"]["weight"] == 10


async def test_what_serves_keeps_its_service_when_its_memory_is_deleted() -> None:
    world, operator = await serving(SPEC)
    world.children = {at: child for at, child in world.children.items() if at[0].kind != "ControllerRevision"}
    world.registry_up = False
    await run(world, operator, 5)
    assert (Kind("v1", "Service"), KEY.name) in world.children


async def test_a_spec_that_waits_for_the_registry_has_not_been_observed() -> None:
    world, operator = await serving(SPEC)
    await run(world, operator, 120)
    world.aliases["next"] = 3
    world.edit(model={"name": "digits", "alias": "next"})
    await operator.reconciler.reconcile(KEY)
    assert world.owner is not None
    assert world.status["observedGeneration"] == world.owner["metadata"]["generation"] - 1
    await operator.step()
    assert world.status["candidate"]["cause"] == "Spec"
    assert "Reconciling" in [c["type"] for c in world.status["conditions"]]


async def test_an_alias_that_never_was_is_told() -> None:
    world = SimulatedWorld({**SPEC, "model": {"name": "digits", "alias": "nobody"}})
    await run(world, Operator(world), 5)
    assert [event.reason for event in world.events] == ["AliasNotFound"]
    assert world.status["reason"] == "AliasNotFound"


async def test_a_retry_has_fresh_evidence_however_much_has_been_forgotten() -> None:
    world, operator = await serving(SPEC)
    for version in range(2, 10):
        world.behaviours[version] = Behaviour(bad_rate=0.1)
        world.aliases["prod"] = version
        await until(world, operator, lambda s, v=version: any(r["version"] == v for r in s["rejected"]))  # type: ignore[misc]
    world.behaviours[2] = Behaviour()
    world.aliases["prod"] = 2
    revision = next(r["revision"] for r in world.status["rejected"] if r["version"] == 2)
    world.command("retry", f"{revision}#1")
    await until(world, operator, lambda status: status["stable"]["version"] == 2)


async def test_a_model_deleted_and_registered_anew_under_the_same_number_is_another_version() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["stable"]["version"] == 2 and not status["draining"])
    world.models_born += 1
    await until(world, operator, lambda status: bool(status.get("candidate")))
    assert world.status["candidate"]["version"] == 2
    assert world.status["candidate"]["revision"] != world.status["stable"]["revision"]
