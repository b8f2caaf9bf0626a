"""Rollouts by the router Gateway, through the whole engine on a simulated cluster."""

import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from modelramp.api.routing import RouterKind
from modelramp.api.spec import Spec
from tests.unit.gateway_world import GATEWAY_SPEC, ROUTE, GatewayWorld
from tests.unit.simulation import KEY, SPEC, Behaviour, Killed, Operator, run, until
from tests.unit.test_rollout import condition, story


@pytest.fixture
async def world() -> GatewayWorld:
    """Version 1 serves, by the Gateway."""
    world = GatewayWorld()
    await run(world, Operator(world), 10)
    assert world.status["phase"] == "Stable" and world.shares() == {stable(world): 100}
    return world


def stable(world: GatewayWorld) -> str:
    return str(world.status["stable"]["revision"])


def candidate(world: GatewayWorld) -> str:
    return str(world.status["candidate"]["revision"])


def told(world: GatewayWorld, reason: str) -> list[str]:
    return [event.message for event in world.events if event.reason == reason]


async def ramping(world: GatewayWorld, weight: int = 10) -> Operator:
    """Version 2 has this weight, in force."""
    operator = Operator(world)
    world.aliases["prod"] = 2

    def in_force(status: dict[str, Any]) -> bool:
        return status.get("step", {}).get("inForceSince") is not None and status["traffic"]["weight"] == weight

    await until(world, operator, in_force)
    return operator


async def test_a_healthy_version_is_ramped_by_exact_weights_and_promoted(world: GatewayWorld) -> None:
    first, seen = stable(world), []
    world.aliases["prod"] = 2
    operator = Operator(world)
    for _ in range(200):
        await operator.step()
        seen.append(tuple(world.shares().items()))
        world.tick(0.5)
    second = stable(world)
    assert world.status["stable"]["version"] == 2
    steps = [((first, 100),), ((first, 90), (second, 10)), ((first, 50), (second, 50)), ((second, 100),)]
    assert list(dict.fromkeys(seen)) == steps
    assert world.failed == 0
    assert world.route()["spec"]["hostnames"] == ["digits.test"]
    assert not any("weight" in write and f"annotate {KEY.name}-{second}" in write for write in world.writes)


async def test_the_share_is_measured_by_both_sides_own_counters(world: GatewayWorld) -> None:
    operator = await ramping(world)
    await until(world, operator, lambda s: s["step"].get("achievedWeight") is not None)
    assert world.status["step"]["achievedWeight"] == pytest.approx(10.0, abs=0.5)
    evidence = world.status["evidence"][0]
    assert evidence["stableRequests"] > 5 * evidence["requests"] > 0


async def test_the_share_is_of_no_requests_from_before_it_was_in_force(world: GatewayWorld) -> None:
    """Where a look after that has no numbers, the next one has those since the one before."""
    world.edit(rollout={"steps": [{"weight": 10, "hold": "60s"}]})
    world.aliases["prod"] = 2
    operator = Operator(world)
    world.accepts = False
    await until(world, operator, lambda s: bool(s["evidence"]))
    world.deaf = True
    await run(world, operator, 20)
    world.accepts = True
    await until(world, operator, lambda s: s["evidence"][0]["lookedAt"] > s["step"].get("inForceSince", "a"))
    world.deaf = False
    await until(world, operator, lambda s: s["step"].get("achievedWeight") is not None)
    assert world.status["traffic"]["weight"] == 10
    assert world.status["step"]["achievedWeight"] == pytest.approx(10.0, abs=0.5)


async def test_a_weight_is_not_in_force_while_an_accepted_route_is_not_acted_on_yet(world: GatewayWorld) -> None:
    """Acceptance is the word of a controller; its proxies follow."""
    world.acts_late = 4.0
    operator = await ramping(world)
    assert world.acted_on[candidate(world)] == 10
    await until(world, operator, lambda s: s["step"].get("achievedWeight") is not None)
    assert world.status["step"]["achievedWeight"] == pytest.approx(10.0, abs=0.5)


async def test_proxies_have_their_time_anew_after_weights_were_put_back(world: GatewayWorld) -> None:
    world.acts_late = 4.0
    world.aliases["prod"] = 2
    operator = Operator(world)
    await until(world, operator, lambda s: "acceptedSince" in s.get("step", {}))
    world.meddle([100, 0])
    await until(world, operator, lambda s: "inForceSince" in s["step"])
    assert world.acted_on[candidate(world)] == 10


async def test_the_share_has_no_time_in_which_a_pod_of_one_side_did_not_tell(world: GatewayWorld) -> None:
    world.edit(scaling={"replicas": 4}, rollout={"steps": [{"weight": 50, "hold": "60s"}]})
    await run(world, Operator(world), 20)
    operator = await ramping(world, 50)
    one, *others = [pod.name for pod in world.pods.values() if pod.revision == candidate(world)]
    assert others
    await until(world, operator, lambda s: s["step"].get("achievedWeight") is not None)
    before = world.status["step"]["countedRequests"]
    for world.silent in {one}, set[str]():
        for _ in range(24):
            await operator.step()
            world.tick(0.5)
            assert world.status["step"]["achievedWeight"] == pytest.approx(50.0, abs=1)
    assert world.status["step"]["countedRequests"] > before


async def test_other_predictions_pause_it(world: GatewayWorld) -> None:
    """Stable's own from before the attempt tell nothing of the comparison."""
    world.behaviours[1] = Behaviour(classes={"0": 1.0})
    await run(world, Operator(world), 60)
    world.behaviours |= {1: Behaviour(classes={"0": 0.5, "1": 0.5}), 2: Behaviour(classes={"1": 1.0})}
    world.edit(rollout={"steps": [{"weight": 50, "hold": "5m"}]})
    world.aliases["prod"] = 2
    await until(world, Operator(world), lambda s: s["reason"] == "PredictionDrift")
    found = next(e for e in world.status["evidence"] if e["metric"] == "drift")
    assert world.status["phase"] == "Paused"
    assert found["distance"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("behaviour", [Behaviour(bad_rate=0.2), Behaviour(refused_rate=0.2)], ids=["fails", "refuses"])
async def test_a_version_that_fails_requests_is_taken_back_and_rejected(
    world: GatewayWorld, behaviour: Behaviour
) -> None:
    """A refusal too, for no other side answers in its place."""
    first = stable(world)
    world.behaviours[2] = behaviour
    world.aliases["prod"] = 2
    await run(world, Operator(world), 60)
    assert story(world)[2:] == [
        ("CandidateStarted", "Alias", 2),
        ("Aborting", "AnalysisFailed", 2),
        ("Rejected", "AnalysisFailed", 2),
    ]
    assert world.shares() == {first: 100} and world.failed == 0


@pytest.mark.parametrize(
    "behaviour", [Behaviour(bad_rate=0.05), Behaviour(refused_rate=0.05)], ids=["fails", "refuses"]
)
async def test_what_fails_no_more_than_stable_does_is_promoted(world: GatewayWorld, behaviour: Behaviour) -> None:
    """The first look has no interval of stable's yet, whose pods are older; the candidate is not judged alone by it."""
    world.rps = 5000.0
    world.behaviours = {1: behaviour, 2: behaviour}
    world.aliases["prod"] = 2
    await run(world, Operator(world), 90)
    assert world.status["stable"]["version"] == 2, world.status["rejected"]


async def test_refusals_in_bursts_are_no_more_to_be_told_apart_than_errors_are(world: GatewayWorld) -> None:
    world.bursts = True
    world.behaviours[1] = Behaviour(refused_rate=0.05)
    operator = await ramping(world)
    await run(world, operator, 7)
    assert json.loads(world.status["evidence"][0]["state"])["tests"]["dispersion"] > 10


async def test_the_candidates_pods_stay_until_the_gateway_has_let_go_of_them(world: GatewayWorld) -> None:
    operator = await ramping(world)
    version = candidate(world)
    world.accepts = False
    world.command("abort", f"{version}#1")
    await run(world, operator, 300)
    assert world.status["phase"] == "Aborting" and "Gateway public to take the share back" in world.status["message"]
    assert any(pod.revision == version for pod in world.pods.values())
    world.accepts, world.acts_late = True, 4.0
    await until(world, operator, lambda s: s["phase"] == "Stable")
    assert version not in world.acted_on and world.failed == 0
    await run(world, operator, 1)
    assert not any(pod.revision == version for pod in world.pods.values())


async def test_an_abort_while_the_proxies_follow_gives_them_their_time_anew(world: GatewayWorld) -> None:
    world.acts_late = 4.0
    world.aliases["prod"] = 2
    operator = Operator(world)
    await until(world, operator, lambda s: "acceptedSince" in s.get("step", {}))
    await run(world, operator, 4.5)
    version = candidate(world)
    assert version in world.acted_on
    world.command("abort", f"{version}#1")
    await until(world, operator, lambda s: s["phase"] == "Stable")
    assert version not in world.acted_on and world.failed == 0


async def test_a_weight_is_not_in_force_until_it_is_accepted(world: GatewayWorld) -> None:
    operator = await ramping(world)
    world.accepts = False
    await until(world, operator, lambda s: s["traffic"]["weight"] == 50)
    await run(world, operator, 60)
    assert world.status["reason"] == "Splitting" and "Gateway public to act on 50 %" in world.status["message"]
    assert "inForceSince" not in world.status["step"]
    world.accepts = True
    await run(world, operator, 7)
    assert world.status["reason"] == "Holding"


async def test_weights_that_somebody_changed_are_put_back_without_advancing(world: GatewayWorld) -> None:
    operator = await ramping(world)
    begun = world.status["step"]["inForceSince"]
    await run(world, operator, 8)
    world.meddle([0, 100])
    await operator.step()
    assert world.shares()[candidate(world)] == 10
    assert "inForceSince" not in world.status["step"]
    assert "other weights than 10 %" in told(world, "WeightPutBack")[0]
    await run(world, operator, 4)
    assert world.status["traffic"]["weight"] == 10, "the hold began anew"
    await until(world, operator, lambda s: "inForceSince" in s["step"])
    assert world.status["step"]["inForceSince"] > begun
    await run(world, operator, 120)
    assert world.status["stable"]["version"] == 2 and len(told(world, "WeightPutBack")) == 1


async def test_after_a_rollback_what_went_bad_stays_until_the_gateway_has_let_go_of_it(world: GatewayWorld) -> None:
    world.aliases["prod"] = 2
    operator = Operator(world)
    await until(world, operator, lambda s: s["stable"]["version"] == 2)
    bad = stable(world)
    world.accepts = False
    world.behaviours[2] = Behaviour(bad_rate=0.3)
    await until(world, operator, lambda s: s["stable"]["version"] == 1)
    await run(world, operator, 60)
    assert any(pod.revision == bad for pod in world.pods.values()) and world.failed == 0
    world.accepts = True
    await run(world, operator, 10)
    assert not any(pod.revision == bad for pod in world.pods.values())
    assert world.shares() == {stable(world): 100} and world.failed == 0


async def test_what_somebody_adds_to_the_rules_is_removed(world: GatewayWorld) -> None:
    world.route()["spec"]["rules"][0]["filters"] = [{"type": "RequestMirror"}]
    await run(world, Operator(world), 2)
    assert "filters" not in world.route()["spec"]["rules"][0]


async def test_no_weight_before_there_are_endpoints(world: GatewayWorld) -> None:
    operator = Operator(world)
    await run(world, operator, 20)
    world.endpoints_late = 20.0
    world.aliases["prod"] = 2
    await run(world, operator, 15)
    assert world.status["reason"] == "Sizing" and world.shares() == {stable(world): 100}
    await run(world, operator, 30)
    assert candidate(world) in world.shares() and world.failed == 0


async def test_a_server_that_dies_counts_as_a_bad_answer(world: GatewayWorld) -> None:
    world.rps = 20.0
    operator = await ramping(world, 50)
    pod = next(pod for pod in world.pods.values() if pod.revision == candidate(world))
    await run(world, operator, 5)
    before = world.status["evidence"][0]
    world.crash(pod)
    await run(world, operator, 10)
    after = world.status["evidence"][0]
    assert (before["bad"], after["bad"]) == (0, 1)
    assert after["requests"] > before["requests"]


async def test_two_deaths_in_a_row_are_not_lost_while_nobody_tells(world: GatewayWorld) -> None:
    operator = await ramping(world)
    version = candidate(world)
    await run(world, operator, 3)
    for pod in [pod for pod in world.pods.values() if pod.revision == version]:
        world.crash(pod)
        world.crash(pod)
    world.deaf = True
    await run(world, operator, 10)
    assert world.status["evidence"][0]["verdict"] == "Error"
    world.deaf = False
    await run(world, operator, 12)
    assert world.status["evidence"][0]["bad"] >= 2


async def test_no_look_counts_one_side_only_where_nobody_told_at_the_first(world: GatewayWorld) -> None:
    world.behaviours = {1: Behaviour(bad_rate=0.05), 2: Behaviour(bad_rate=0.05)}
    operator = Operator(world)
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: "step" in s)
    world.deaf = True
    await until(world, operator, lambda s: bool(s["evidence"]))
    assert world.status["evidence"][0]["verdict"] == "Error"
    await run(world, operator, 4)
    world.deaf = False
    await until(world, operator, lambda s: s["evidence"][0]["requests"] > 0)
    evidence = world.status["evidence"][0]
    assert evidence["stableRequests"] > 5 * evidence["requests"]


async def test_a_new_attempt_begins_with_fresh_evidence(world: GatewayWorld) -> None:
    wanted = copy.deepcopy(GATEWAY_SPEC["rollout"]) | {"onFailure": "Pause"}
    world.edit(rollout=wanted)
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    operator = Operator(world)
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: s.get("phase") == "Paused")
    world.behaviours[2] = Behaviour()
    world.command("resume", f"{candidate(world)}#1")
    await until(world, operator, lambda s: s.get("step", {}).get("inForceSince") is not None and bool(s["evidence"]))
    await run(world, operator, 6)
    assert world.status["evidence"][0]["bad"] == 0


async def test_other_predictions_pause_a_second_attempt_too(world: GatewayWorld) -> None:
    """None of its pods is younger than the attempt, so all that they have counted is a baseline."""
    world.behaviours = {1: Behaviour(classes={"0": 1.0}), 2: Behaviour(bad_rate=0.3, classes={"1": 1.0})}
    await run(world, Operator(world), 60)
    world.edit(rollout={"steps": [{"weight": 50, "hold": "5m"}], "onFailure": "Pause"})
    world.aliases["prod"] = 2
    operator = Operator(world)
    await until(world, operator, lambda s: s["reason"] == "AnalysisFailed")
    world.behaviours[2] = Behaviour(classes={"1": 1.0})
    world.command("resume", f"{candidate(world)}#1")
    await until(world, operator, lambda s: s["reason"] == "PredictionDrift")
    assert world.status["candidate"]["attempt"] == 2


async def test_latency_is_judged_by_what_each_side_reports(world: GatewayWorld) -> None:
    rollout = copy.deepcopy(GATEWAY_SPEC["rollout"])
    rollout["analysis"] = {"objectives": {"latency": {}}}
    world.edit(rollout=rollout)
    world.behaviours[2] = Behaviour(service=0.09)
    world.aliases["prod"] = 2
    await run(world, Operator(world), 120)
    assert story(world)[-1] == ("Rejected", "AnalysisFailed", 2)


async def test_without_gateway_api_stable_serves_and_nothing_is_rejected() -> None:
    world = GatewayWorld()
    world.unusable = {ROUTE.kind: "the API server does not know HTTPRoute"}
    operator = Operator(world)
    await run(world, operator, 10)
    assert world.status["phase"] == "Stable" and condition(world, "Ready")["status"] == "True"  # type: ignore[index]
    assert condition(world, "RouterUnavailable")["reason"] == "RouterUnavailable"  # type: ignore[index]
    world.aliases["prod"] = 2
    await run(world, operator, 120)
    assert world.status["reason"] == "RouterUnavailable" and not world.status["rejected"]
    assert world.status["traffic"]["weight"] == 0
    world.unusable = {}
    await run(world, operator, 90)
    assert world.status["stable"]["version"] == 2 and condition(world, "RouterUnavailable") is None


async def test_a_route_that_is_refused_is_told_and_holds(world: GatewayWorld) -> None:
    world.refusal = {"Accepted": "no listener matches digits.test"}
    world.aliases["prod"] = 2
    await run(world, Operator(world), 30)
    assert world.status["reason"] == "RouteNotAccepted" and "no listener matches" in world.status["message"]
    assert world.shares() == {stable(world): 100}
    assert condition(world, "RouterUnavailable")["reason"] == "RouteNotAccepted"  # type: ignore[index]


async def test_a_quiet_world_costs_no_write(world: GatewayWorld) -> None:
    operator = Operator(world)
    await run(world, operator, 5)
    before = len(world.writes)
    await run(world, operator, 300)
    assert world.writes[before:] == []


@pytest.mark.parametrize(("before", "after"), [(SPEC, GATEWAY_SPEC), (GATEWAY_SPEC, SPEC)])
async def test_a_router_changed_in_mid_rollout_goes_on_from_the_same_weight(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    world = GatewayWorld(before)
    operator = Operator(world)
    await run(world, operator, 10)
    await ramping(world, 50)
    await run(world, operator, 6)
    assert (sum(e["requests"] for e in world.status["evidence"]) > 0) is (before is GATEWAY_SPEC)
    world.edit(traffic=after.get("traffic", {}))
    await operator.step()
    assert sum(e["requests"] for e in world.status["evidence"]) == 0
    assert world.status["traffic"]["weight"] == 50 and len(told(world, "RouterChanged")) == 1
    world.tick(0.5)
    relayed = {pod.weight for pod in world.pods.values() if pod.revision == stable(world)}
    assert relayed == ({0} if after is GATEWAY_SPEC else {50})
    assert ((ROUTE, KEY.name) in world.children) is (after is GATEWAY_SPEC)


async def test_the_route_of_a_router_that_is_asked_for_no_more_goes_however_the_operator_is_killed(
    world: GatewayWorld,
) -> None:
    world.edit(traffic={})
    before = len(world.writes)
    plain = copy.deepcopy(world)
    await run(plain, Operator(plain), 5)
    assert "delete HTTPRoute digits" in plain.writes[before:]
    for index in range(before, len(plain.writes)):
        for when in ("kill_before", "kill_after"):
            again = copy.deepcopy(world)
            setattr(again, when, index)
            with pytest.raises(Killed):
                await run(again, Operator(again), 5)
            again.kill_before = again.kill_after = None
            await run(again, Operator(again), 5)
            assert (ROUTE, KEY.name) not in again.children, f"{when} {plain.writes[index]}"


async def test_a_lost_status_leaves_no_route_behind(world: GatewayWorld) -> None:
    world.spec = SPEC
    world.lose_status()
    await run(world, Operator(world), 5)
    assert (ROUTE, KEY.name) not in world.children


async def test_a_router_changed_in_a_shadow_ends_the_copies() -> None:
    world = GatewayWorld({**SPEC, "rollout": {**SPEC["rollout"], "steps": [{"shadow": 20, "hold": "5m"}]}})
    operator = Operator(world)
    await run(world, operator, 10)
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: s["reason"] == "Shadowing")
    world.edit(traffic=GATEWAY_SPEC["traffic"], rollout=SPEC["rollout"])
    await run(world, operator, 2)
    assert [pod.shadow for pod in world.pods.values()] == [0] * len(world.pods)


async def test_a_status_lost_in_mid_rollout_fails_no_request(world: GatewayWorld) -> None:
    """The object is created again, and asks for another version; the Gateway has not heard of it yet."""
    await ramping(world, 50)
    version = candidate(world)
    world.lose_status()
    world.accepts, world.aliases["prod"] = False, 1
    await run(world, Operator(world), 60)
    assert world.failed == 0 and any(pod.revision == version for pod in world.pods.values())
    world.accepts = True
    await run(world, Operator(world), 10)
    assert world.failed == 0 and not any(pod.revision == version for pod in world.pods.values())


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        ({"router": "Gateway"}, "needs spec.traffic.gateway.parentRefs"),
        ({"router": "Relay", "gateway": {"parentRefs": [{"name": "public"}]}}, "leave spec.traffic.router out"),
        ({"gateway": {"parentRefs": []}}, "at least 1 item"),
    ],
)
def test_a_router_without_what_it_needs_is_refused_in_words(traffic: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Spec.model_validate({**SPEC, "traffic": traffic})


def test_gateway_is_the_router_where_gateway_is_set() -> None:
    assert Spec.model_validate(GATEWAY_SPEC).traffic.chosen is RouterKind.GATEWAY
    assert Spec.model_validate(SPEC).traffic.chosen is RouterKind.RELAY
