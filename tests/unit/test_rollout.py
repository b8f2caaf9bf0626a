"""The rollout table, row by row, through the whole engine on a simulated cluster."""

import json
from typing import Any

import pytest

from modelramp.domain.world import Fault
from modelramp.engine.reconcile import ANSWER_SECONDS
from modelramp.ports import Kind
from tests.unit.simulation import KEY, SPEC, Behaviour, Operator, SimulatedWorld, run, serves, serving, until


@pytest.fixture
async def world() -> SimulatedWorld:
    """Version 1 serves."""
    world = SimulatedWorld(SPEC)
    await run(world, Operator(world), 10)
    assert world.status["phase"] == "Stable"
    return world


def story(world: SimulatedWorld) -> list[tuple[str, str, int]]:
    return [(h["action"], h["reason"], h["version"]) for h in world.status["history"]]


def condition(world: SimulatedWorld, kind: str) -> dict[str, Any] | None:
    return next((c for c in world.status["conditions"] if c["type"] == kind), None)


async def test_first_revision_goes_straight_to_stable(world: SimulatedWorld) -> None:
    assert story(world) == [("CandidateStarted", "Spec", 1), ("Promoted", "FirstRevision", 1)]
    ready = condition(world, "Ready")
    assert ready is not None and ready["status"] == "True"
    assert [c["type"] for c in world.status["conditions"]] == ["Ready"]


async def test_a_healthy_version_is_ramped_and_promoted(world: SimulatedWorld) -> None:
    before = set(world.pods)
    world.aliases["prod"] = 2
    weights = []
    operator = Operator(world)
    for _ in range(200):
        await operator.step()
        weights.append(world.status["traffic"]["weight"])
        world.tick(0.5)
    assert list(dict.fromkeys(weights)) == [0, 10, 50, 100]
    assert story(world)[2:] == [("CandidateStarted", "Alias", 2), ("Promoted", "StepsDone", 2)]
    assert world.status["stable"]["version"] == 2
    assert not before & set(world.pods), "former stable pods are gone"
    assert len(world.pods) == 2
    assert {k.kind for k, _ in world.children} == {
        "ControllerRevision",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
    }


@pytest.mark.parametrize("bursts", [False, True], ids=["evenly", "in bursts"])
async def test_a_stable_that_refuses_what_is_too_much_excuses_no_bad_version(
    world: SimulatedWorld, bursts: bool
) -> None:
    """The relay does not count a candidate's refusals either; nor do stable's make errors look like clusters."""
    world.behaviours = {1: Behaviour(refused_rate=0.3), 2: Behaviour(bad_rate=0.1)}
    world.bursts = bursts
    world.aliases["prod"] = 2
    await run(world, Operator(world), 60)
    assert story(world)[-1] == ("Rejected", "AnalysisFailed", 2)


async def test_beside_a_stable_that_refuses_everything_nothing_is_decided(world: SimulatedWorld) -> None:
    """It has requests, so nobody holds its trouble against the candidate."""
    world.behaviours = {1: Behaviour(refused_rate=1.0), 2: Behaviour(bad_rate=0.1)}
    world.aliases["prod"] = 2
    await run(world, Operator(world), 60)
    evidence = world.status["evidence"][0]
    assert (evidence["verdict"], evidence["stableRequests"]) == ("Inconclusive", 0)
    assert evidence["bad"] > 10 and not world.status["rejected"]
    refused = int(json.loads(evidence["state"])["noted"]["refused"])
    assert refused and evidence["message"].endswith(f"; stable refused {refused} more (503)")


async def test_what_stable_refused_while_nothing_was_learnt_of_it_is_not_noted(world: SimulatedWorld) -> None:
    """Its other answers of that time are not either: their share is what the watch after the promotion goes by."""
    world.behaviours = {1: Behaviour(refused_rate=0.3), 2: Behaviour(refused_rate=1.0)}
    world.aliases["prod"] = 2
    operator = Operator(world)
    await until(world, operator, lambda s: s["reason"] == "NoEvidence")
    await run(world, operator, 30)
    world.behaviours[2] = Behaviour()
    await until(world, operator, lambda s: s["evidence"][0]["verdict"] == "Pass")
    evidence = world.status["evidence"][0]
    refused = json.loads(evidence["state"])["noted"]["refused"]
    assert refused / (refused + evidence["stableRequests"]) == pytest.approx(0.3, abs=0.05)


async def test_stables_refusals_are_requests_dealt(world: SimulatedWorld) -> None:
    world.rps = 400.0
    world.behaviours[1] = Behaviour(refused_rate=0.5)
    world.aliases["prod"] = 2
    operator = Operator(world)
    await until(world, operator, lambda s: (s.get("step") or {}).get("inForceSince") is not None)
    await run(world, operator, 8)
    assert world.status["step"]["achievedWeight"] == pytest.approx(10.0, abs=0.5)


async def test_a_version_that_fails_requests_is_taken_back(world: SimulatedWorld) -> None:
    world.behaviours[2] = Behaviour(bad_rate=0.1)
    world.aliases["prod"] = 2
    await run(world, Operator(world), 60)
    assert story(world)[2:] == [
        ("CandidateStarted", "Alias", 2),
        ("Aborting", "AnalysisFailed", 2),
        ("Rejected", "AnalysisFailed", 2),
    ]
    assert world.status["stable"]["version"] == 1
    assert all(pod.weight == 0 for pod in world.pods.values())
    degraded = condition(world, "Degraded")
    assert degraded is not None and "of" in degraded["message"]
    assert condition(world, "Ready")["status"] == "True"  # type: ignore[index]
    assert condition(world, "Stalled") is None


async def test_a_version_that_never_gets_ready_gets_no_traffic(world: SimulatedWorld) -> None:
    world.behaviours[2] = Behaviour(ready_after=float("inf"))
    world.aliases["prod"] = 2
    await run(world, Operator(world), 90)
    assert story(world)[-1] == ("Rejected", "ProgressDeadlineExceeded", 2)
    assert not any("annotate" in write for write in world.writes)


async def test_a_model_that_does_not_load_is_rejected_at_once(world: SimulatedWorld) -> None:
    world.behaviours[2] = Behaviour(fault=Fault("LoadFailed", "no such operator", models_own=True))
    world.aliases["prod"] = 2
    await run(world, Operator(world), 10)
    assert story(world)[-1] == ("Rejected", "LoadFailed", 2)


async def test_an_infrastructure_fault_holds_and_never_rejects(world: SimulatedWorld) -> None:
    world.behaviours[2] = Behaviour(fault=Fault("ImagePullBackOff", "no such image", models_own=False))
    world.aliases["prod"] = 2
    operator = Operator(world)
    await run(world, operator, 30)
    assert world.status["reason"] == "ImagePullBackOff"
    await run(world, operator, 60)
    assert not world.status["rejected"]
    assert world.status["backOff"]["failures"] == 1
    world.behaviours[2] = Behaviour()
    await run(world, operator, 120)
    assert world.status["stable"]["version"] == 2


async def test_an_alias_that_moves_on_supersedes_without_rejecting(world: SimulatedWorld) -> None:
    operator = Operator(world)
    world.aliases["prod"] = 2
    await run(world, operator, 10)
    world.aliases["prod"] = 3
    await run(world, operator, 80)
    assert world.status["stable"]["version"] == 3
    assert ("Aborting", "Superseded", 2) in story(world)
    assert not world.status["rejected"]


async def test_an_alias_that_moves_back_aborts_without_rejecting(world: SimulatedWorld) -> None:
    operator = Operator(world)
    world.aliases["prod"] = 2
    await run(world, operator, 10)
    world.aliases["prod"] = 1
    await run(world, operator, 20)
    assert story(world)[-1] == ("Aborting", "MovedBack", 2)
    assert world.status["phase"] == "Stable" and not world.status["rejected"]


async def test_registry_down_mid_rollout_goes_on_with_the_pinned_version(world: SimulatedWorld) -> None:
    operator = Operator(world)
    world.aliases["prod"] = 2
    await run(world, operator, 5)
    world.registry_up = False
    await run(world, operator, 10)
    assert condition(world, "RegistryUnavailable") is not None
    await run(world, operator, 60)
    assert world.status["stable"]["version"] == 2
    world.registry_up = True
    await run(world, operator, 5)
    assert [c["type"] for c in world.status["conditions"]] == ["Ready"]


async def test_a_rejected_version_stays_rejected_and_retry_clears_it(world: SimulatedWorld) -> None:
    operator = Operator(world)
    world.behaviours[2] = Behaviour(fault=Fault("LoadFailed", "no", models_own=True))
    world.aliases["prod"] = 2
    await run(world, operator, 10)
    world.aliases["prod"] = 3
    await run(world, operator, 70)
    world.aliases["prod"] = 2
    await run(world, operator, 10)
    assert world.status["stable"]["version"] == 3 and world.status["reason"] == "Rejected"
    world.behaviours[2] = Behaviour()
    world.command("retry", f"{world.status['rejected'][0]['revision']}#1")
    await run(world, operator, 70)
    assert world.status["stable"]["version"] == 2


async def test_lost_status_adopts_what_serves_and_remembers_what_was_rejected(world: SimulatedWorld) -> None:
    operator = Operator(world)
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    world.aliases["prod"] = 2
    await run(world, operator, 60)
    pods = set(world.pods)
    world.lose_status()
    await run(world, Operator(world), 30)
    assert world.status["stable"]["version"] == 1
    assert world.status["rejected"][0]["version"] == 2
    assert set(world.pods) == pods
    assert all(child["metadata"]["ownerReferences"][0]["uid"] == "uid-2" or True for child in world.children.values())
    assert {c["metadata"]["ownerReferences"][0]["uid"] for c in world.children.values()} == {
        world.owner["metadata"]["uid"]  # type: ignore[index]
    }


async def test_a_quiet_world_costs_no_write(world: SimulatedWorld) -> None:
    operator = Operator(world)
    await run(world, operator, 5)
    before = len(world.writes)
    await run(world, operator, 300)
    assert len(world.writes) == before


async def test_operator_away_in_mid_ramp_then_goes_on(world: SimulatedWorld) -> None:
    world.aliases["prod"] = 2
    operator = Operator(world)
    while world.status["traffic"]["weight"] != 50:
        await operator.step()
        world.tick(0.5)
    world.tick(130)
    assert all(pod.weight == 0 for pod in world.pods.values())
    await run(world, Operator(world), 60)
    assert world.status["stable"]["version"] == 2


@pytest.mark.parametrize("offset", [-600.0, 600.0])
async def test_a_clock_that_is_off_does_not_stop_a_rollout(world: SimulatedWorld, offset: float) -> None:
    world.aliases["prod"] = 2
    operator = Operator(world)
    while world.status["traffic"]["weight"] != 10:
        await operator.step()
        world.tick(0.5)
    skewed = Operator(world)
    wall = world.now

    world.now = lambda: wall() + __import__("datetime").timedelta(seconds=offset)  # type: ignore[method-assign]
    await run(world, skewed, 90)
    assert world.status["stable"]["version"] == 2


async def test_a_restart_writes_nothing_and_what_somebody_changed_is_put_back(world: SimulatedWorld) -> None:
    before = len(world.writes)
    await run(world, Operator(world), 5)
    assert world.writes[before:] == []
    service = world.children[Kind("v1", "Service"), KEY.name]
    service["spec"]["ports"][0]["port"] = 81
    await run(world, Operator(world), 5)
    assert world.writes[before:] == [f"apply Service {KEY.name}"]
    assert world.children[Kind("v1", "Service"), KEY.name]["spec"]["ports"][0]["port"] == 80


async def test_the_service_has_the_grpc_port_while_the_pods_behind_it_do(world: SimulatedWorld) -> None:
    def ports() -> list[str]:
        return [port["name"] for port in world.children[Kind("v1", "Service"), KEY.name]["spec"]["ports"]]

    def own(revision: str) -> list[int]:
        service = world.children[Kind("v1", "Service"), f"digits-{revision}"]
        return [port["port"] for port in service["spec"]["ports"]]

    before = world.status["stable"]["revision"]
    operator = Operator(world)
    world.edit(server={"grpc": True})
    while world.status["stable"]["revision"] == before:
        assert ports() == ["http"]
        await run(world, operator, 1)
    await run(world, operator, 1)
    assert ports() == ["http", "grpc"]
    assert own(world.status["stable"]["revision"]) == [8080], "the relay asks by HTTP"
    world.edit(server={})
    await until(world, operator, lambda status: bool(status["stable"]["revision"] == before))
    await run(world, operator, 1)
    assert ports() == ["http"]


async def test_the_first_revision_takes_no_more_writes_than_this() -> None:
    world = SimulatedWorld(SPEC)
    await run(world, Operator(world), 20)
    name = f"digits-{world.status['stable']['revision']}"
    assert world.writes == [
        "status Pending Starting",
        f"apply ControllerRevision {name}",
        f"apply Deployment {name}",
        f"apply Service {name}",
        f"scale {name} 2",
        "status Stable Serving",
        "apply Service digits",
        "apply PodDisruptionBudget digits",
    ]


async def test_a_registry_that_does_not_answer_at_once_is_told_and_waited_for() -> None:
    world = SimulatedWorld(SPEC)
    world.status["phase"] = "Pending"  # the schema's default
    operator = Operator(world)
    assert await operator.reconciler.reconcile(KEY) == ANSWER_SECONDS
    assert world.writes == []
    await operator.reconciler.reconcile(KEY)
    assert (world.status["phase"], world.status["reason"]) == ("Pending", "Resolving")
    await until(world, operator, serves(1))


async def test_after_a_restart_what_is_under_way_waits_for_no_registry() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, lambda status: status["reason"] == "Holding")
    generation = world.status["traffic"]["generation"]
    world.tick(60)
    await Operator(world).reconciler.reconcile(KEY)
    assert world.status["traffic"]["generation"] > generation
