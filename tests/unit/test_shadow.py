"""Shadow steps, through the whole engine: copies before weights, what takes a candidate back, what lets it go on."""

import copy
from typing import Any

import pytest

from modelramp.api.shadow import Shadow
from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain.counts import Counts
from modelramp.domain.disagreement import Compared
from tests.unit.simulation import Behaviour, Killed, Operator, SimulatedWorld, run, serves, serving, spec, until
from tests.unit.test_freeze import Frost

STEPS = [{"shadow": 20, "hold": "10s"}, {"weight": 10, "hold": "10s"}, {"weight": 50, "hold": "10s"}]
BOUND = {"maxDisagreement": 0.05}


def shadowing(status: dict[str, Any]) -> bool:
    return bool(status["reason"] == "Shadowing")


def rejected(status: dict[str, Any]) -> bool:
    return bool(status.get("rejected")) and status["phase"] == "Stable"


def evidence(world: SimulatedWorld, metric: str = "disagreement") -> dict[str, Any]:
    return next(e for e in world.status["evidence"] if e["metric"] == metric)


def answered_by_candidate(world: SimulatedWorld) -> int:
    """Requests of users that were handed to the candidate, counting pods that live."""
    return sum(c["c_ok"] + c["c_bad"] for pod in world.pods.values() for c in pod.splits.values())


def told(world: SimulatedWorld, reason: str) -> list[str]:
    return [event.message for event in world.events if event.reason == reason]


async def begun(behaviour: Behaviour | None = None, **rollout: Any) -> tuple[SimulatedWorld, Operator]:
    """Version 2 is shadowed."""
    world, operator = await serving(spec(**{"steps": STEPS, **rollout}))
    world.behaviours[2] = behaviour or Behaviour()
    await until(world, operator, shadowing)
    return world, operator


async def test_a_healthy_version_is_shadowed_then_ramped() -> None:
    world, operator = await serving(spec(steps=STEPS))
    splits = []
    for _ in range(400):
        await operator.step()
        splits.append((world.status["traffic"]["weight"], world.status["traffic"]["shadow"]))
        world.tick(0.5)
    assert list(dict.fromkeys(splits)) == [(0, 0), (0, 20), (10, 0), (50, 0), (100, 0)]
    assert serves(2)(world.status)
    assert told(world, "ShadowSet") == ["copies of 20 % of the requests go to version 2; stable answers all"]
    assert told(world, "StepDone")[0] == "0 % of users, 20 % shadowed held; nothing failed"


async def test_what_people_read_in_a_shadow_is_true() -> None:
    world, operator = await begun(Behaviour(disagreement=0.1))
    await run(world, operator, 7)
    status = world.status
    assert (status["phase"], status["reason"]) == ("Ramping", "Shadowing")
    assert status["traffic"]["weight"] == 0 and status["step"]["weight"] == 0 and status["step"]["shadow"] == 20
    assert status["message"].startswith("0 % of users, 20 % shadowed: errors: candidate failed 0 of ")
    assert status["step"]["achievedWeight"] == 0
    shown = evidence(world)
    assert shown["verdict"] == "Inconclusive" and shown["requests"] >= 100
    assert shown["rate"] == pytest.approx(0.1, abs=0.01)
    assert shown["message"].startswith(f"{shown['bad']} of {shown['requests']} answers differ from stable's (")
    assert shown["message"].endswith(" %); no bound is set")
    assert "requestsNeeded" not in shown
    progress = next(c for c in status["conditions"] if c["type"] == "RolloutProgressing")
    assert "20 % shadowed" in progress["message"]
    assert answered_by_candidate(world) == 0


async def test_the_candidate_is_sized_for_the_copies() -> None:
    steps = [{"shadow": 80, "hold": "10s"}, {"weight": 10, "hold": "10s"}]
    world, operator = await serving({**spec(steps=steps), "scaling": {"replicas": 5}})
    await until(world, operator, shadowing)
    candidate = world.status["candidate"]["revision"]
    assert world.deployment(candidate)["spec"]["replicas"] == 4


@pytest.mark.parametrize(
    ("behaviour", "metric"),
    [(Behaviour(bad_rate=0.2), "errors"), (Behaviour(service=0.09), "latency")],
    ids=["fails", "is slow"],
)
async def test_a_bad_version_is_taken_back_before_any_user_is_answered_by_it(behaviour: Behaviour, metric: str) -> None:
    steps = [{"shadow": 50, "hold": "2m"}, {"weight": 10, "hold": "10s"}]
    analysis = {"objectives": {"latency": {}}}
    world, operator = await serving(spec(steps=steps, analysis=analysis))
    world.behaviours[2] = behaviour
    await until(world, operator, rejected)
    assert world.status["rejected"][0]["reason"] == "AnalysisFailed"
    assert world.status["rejected"][0]["message"].startswith(f"{metric}: ")
    assert world.status["stable"]["version"] == 1 and answered_by_candidate(world) == 0
    assert world.status["traffic"]["shadow"] == 0 and all(pod.shadow == 0 for pod in world.pods.values())


async def test_a_version_over_the_users_bound_is_taken_back() -> None:
    steps = [{"shadow": 50, "hold": "2m"}, {"weight": 10, "hold": "10s"}]
    world, operator = await serving(spec(steps=steps, shadow=BOUND))
    world.behaviours[2] = Behaviour(disagreement=0.3)
    await until(world, operator, rejected)
    message = world.status["rejected"][0]["message"]
    assert message.startswith("disagreement: ") and "over the bound of 5 % with confidence 97.5 %" in message
    assert answered_by_candidate(world) == 0


async def test_the_same_version_without_a_bound_is_promoted() -> None:
    world, operator = await begun(Behaviour(disagreement=0.3))
    await until(world, operator, serves(2))


async def test_one_look_alone_takes_nobody_back() -> None:
    world, operator = await begun(Behaviour(disagreement=1.0), shadow=BOUND)
    await run(world, operator, 6)
    assert evidence(world)["rate"] == 1 and evidence(world)["verdict"] == "Inconclusive"


async def test_a_version_below_the_bound_goes_on_when_that_is_certain() -> None:
    world, operator = await begun(Behaviour(disagreement=0.01), shadow=BOUND)
    world.rps = 20.0
    await run(world, operator, 15)
    assert shadowing(world.status), "the hold is over, and the evidence does not suffice"
    assert evidence(world)["requestsNeeded"] > 0 and "more that agree would pass" in world.status["message"]
    world.rps = 400.0
    await until(world, operator, lambda status: status["traffic"]["weight"] == 10)
    assert evidence(world)["verdict"] == "Pass" and "below the bound of 5 %" in evidence(world)["message"]
    await until(world, operator, serves(2))


async def test_without_proof_in_time_a_person_is_asked() -> None:
    world, operator = await begun(shadow=BOUND, analysis={"maxDuration": "30s"})
    world.rps = 2.0
    await run(world, operator, 40)
    assert (world.status["phase"], world.status["reason"]) == ("Paused", "Inconclusive")
    assert "disagreement: " in world.status["message"]
    assert answered_by_candidate(world) == 0


async def test_another_bound_or_tolerance_begins_the_comparison_anew() -> None:
    world, operator = await begun(Behaviour(disagreement=0.3), steps=[{"shadow": 20, "hold": "5m"}])
    await run(world, operator, 20)
    assert evidence(world)["requests"] > 300
    world.edit(rollout={**world.spec["rollout"], "shadow": {"tolerance": 0.5, "maxDisagreement": 0.4}})
    await run(world, operator, 6)
    assert evidence(world)["requests"] < 150
    assert evidence(world, "errors")["requests"] > 400, "the other evidence stands"
    candidate = world.status["candidate"]["revision"]
    split = next(p.split for p in world.pods.values() if p.revision != candidate)
    assert '"shadow":{"share":20,"tolerance":0.5,"iou":0.9}' in split


async def test_a_pause_keeps_the_shadow() -> None:
    world, operator = await serving(spec(steps=[STEPS[0], {"pause": {}}, STEPS[1]]))
    await until(world, operator, lambda status: status["reason"] == "PauseStep")
    before = evidence(world)["requests"]
    await run(world, operator, 60)
    assert world.status["phase"] == "Paused"
    assert world.status["traffic"]["shadow"] == world.status["step"]["shadow"] == 20
    assert evidence(world)["requests"] > before + 500, "compared on"
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, serves(2))


@pytest.mark.parametrize("verb", ["abort", "promote"])
async def test_commands_in_a_shadow(verb: str) -> None:
    world, operator = await begun()
    world.command(verb, f"{world.status['candidate']['revision']}#1")
    await until(world, operator, rejected if verb == "abort" else serves(2))
    assert world.status["traffic"]["shadow"] == 0


async def test_an_abort_waits_until_no_copy_is_made_any_more() -> None:
    world, operator = await begun()
    world.command("abort", f"{world.status['candidate']['revision']}#1")
    await operator.step()
    await operator.step()
    assert world.status["phase"] == "Aborting", "the pods have not read it yet"
    world.tick(0.5)
    await operator.step()
    assert world.status["phase"] == "Stable" and rejected(world.status)


async def test_the_dead_mans_switch_ends_the_copies_and_the_hold_begins_anew() -> None:
    world, operator = await begun(steps=[{"shadow": 20, "hold": "30s"}, STEPS[1]])
    await run(world, operator, 20)
    world.tick(200)
    assert all(pod.shadow == 0 for pod in world.pods.values())
    await operator.step()
    assert "inForceSince" not in world.status["step"], "no pod copies, whatever generation it has heard"
    world.tick(0.5)
    assert any(pod.shadow == 20 for pod in world.pods.values())
    await run(world, operator, 20)
    assert shadowing(world.status)
    await until(world, operator, serves(2))


async def test_copies_are_renewed_while_the_shadow_is_held() -> None:
    world, operator = await begun(steps=[{"shadow": 20, "hold": "10m"}, STEPS[1]])
    await run(world, operator, 300, tick=5.0)
    assert shadowing(world.status) and any(pod.shadow == 20 for pod in world.pods.values())


async def test_drift_waits_for_the_first_weight() -> None:
    """Stable's pods count what they predict in a shadow too; nobody counts what the candidate does there."""
    analysis = {"objectives": {"drift": {"max": 0.2}}}
    world, operator = await serving(spec(steps=[{"shadow": 20, "hold": "2m"}, {"weight": 50}], analysis=analysis))
    world.behaviours |= {1: Behaviour(classes={"0": 1.0}), 2: Behaviour(classes={"1": 1.0})}
    await until(world, operator, shadowing)
    await run(world, operator, 60)
    assert shadowing(world.status) and evidence(world, "drift")["verdict"] == "Inconclusive"
    assert evidence(world, "drift")["stableRequests"] > 1000 and evidence(world, "drift")["requests"] == 0
    await until(world, operator, rejected)
    assert world.status["rejected"][0]["message"].startswith("drift: ")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{"shadow": 5, "hold": "1s"}, {"shadow": 50, "hold": "5m"}], (0, 5)),
        ([{"shadow": 50, "hold": "5m"}, {"weight": 10, "hold": "10s"}], (0, 50)),
        ([{"weight": 10, "hold": "5m"}], (10, 0)),
        ([{"shadow": 20, "hold": "5m"}, {"weight": 30, "hold": "10s"}], (0, 20)),
    ],
    ids=["one below", "only more", "no shadow any more", "the same"],
)
async def test_steps_edited_in_a_shadow(steps: list[dict[str, Any]], expected: tuple[int, int]) -> None:
    world, operator = await begun()
    world.edit(rollout={**world.spec["rollout"], "steps": steps})
    await operator.step()
    traffic = world.status["traffic"]
    assert (traffic["weight"], traffic["shadow"]) == expected


async def test_a_shadow_added_after_a_weight_takes_nothing_back() -> None:
    world, operator = await serving(spec(steps=STEPS[1:]))
    await until(world, operator, lambda status: status["traffic"]["weight"] == 10 and status["reason"] == "Holding")
    world.edit(rollout={**world.spec["rollout"], "steps": STEPS})
    await run(world, operator, 3)
    assert world.status["traffic"]["weight"] == 10 and world.status["traffic"]["shadow"] == 0


@pytest.mark.parametrize("bound", [{}, BOUND], ids=["no bound", "bound"])
async def test_stable_pods_of_an_image_that_copies_nothing(bound: dict[str, Any]) -> None:
    world, operator = await serving(spec(steps=STEPS, shadow=bound))
    world.copying = False
    done = serves(2) if not bound else lambda status: bool(status["phase"] == "Paused")
    await until(world, operator, done)
    if bound:
        assert world.status["reason"] == "Inconclusive" and "can't copy requests" in world.status["message"]
    else:
        assert told(world, "ShadowSkipped") == [
            "stable's pods are of an image that can't copy requests: the step is left out"
        ]


async def test_a_lost_candidate_holds_a_shadow() -> None:
    world, operator = await begun(steps=[{"shadow": 20, "hold": "2m"}, STEPS[1]])
    candidate = world.status["candidate"]["revision"]
    for name in [name for name, pod in world.pods.items() if pod.revision == candidate]:
        del world.pods[name]
    await operator.step()
    assert world.status["reason"] == "PodsLost"
    world.tick(0.5)
    await run(world, operator, 10)
    assert shadowing(world.status)


async def test_no_shadow_begins_in_a_freeze() -> None:
    frost = Frost()
    frost.world.edit(rollout=spec(steps=STEPS)["rollout"])
    await frost.run(10)
    frost.world.aliases["prod"] = 2
    await frost.run(1)
    await frost.freeze()
    await frost.run(30)
    status = frost.world.status
    assert (status["phase"], status["reason"], status["traffic"]["shadow"]) == ("Ramping", "Frozen", 0)


async def test_killed_before_and_after_each_write_of_a_shadow() -> None:
    """Each life ends at another write; the next goes on, and the copies end where the first weight begins."""
    steps = [{"shadow": 20, "hold": "1s"}, {"weight": 10, "hold": "1m"}]
    before, operator = await serving(spec(steps=steps))
    await until(before, operator, lambda status: status["reason"] == "Ramping")

    def weighed(status: dict[str, Any]) -> bool:
        return bool(status["traffic"]["weight"] == 10 and status["reason"] == "Holding")

    plain = copy.deepcopy(before)
    await until(plain, Operator(plain), weighed)
    indices = range(len(before.writes), len(plain.writes))
    assert any('"shadow":' in plain.writes[index] for index in indices)
    for index in indices:
        for when in ("kill_before", "kill_after"):
            world = copy.deepcopy(before)
            setattr(world, when, index)
            with pytest.raises(Killed):
                await until(world, Operator(world), weighed)
            world.kill_before = world.kill_after = None
            await until(world, Operator(world), weighed)
            assert not any('"shadow":' in pod.split for pod in world.pods.values())
            assert world.status["candidate"]["attempt"] == 1


@pytest.mark.parametrize(
    ("tally", "verdict", "bound", "sentence"),
    [
        (Compared(Counts(0, 0), 0), Verdict.INCONCLUSIVE, None, "0 of 0 answers differ from stable's; no bound is set"),
        (Compared(Counts(50, 5), 2), Verdict.INCONCLUSIVE, None,
         "5 of 50 answers differ from stable's (10 %), 2 can't be compared; no bound is set"),
        (Compared(Counts(50, 5), 0), Verdict.FAIL, 0.05,
         "5 of 50 answers differ from stable's (10 %): over the bound of 5 % with confidence 95 %"),
        (Compared(Counts(1000, 5), 0), Verdict.FAIL, 0.05,
         "5 of 1000 answers differ from stable's (0.5 %): over the bound of 5 % of late with confidence 95 %"),
        (Compared(Counts(50, 20), 0), Verdict.INCONCLUSIVE, 0.05,
         "20 of 50 answers differ from stable's (40 %): the bound of 5 % is not decided; "
         "12 more that agree would pass"),
    ],
)  # fmt: skip
def test_what_the_evidence_says(tally: Compared, verdict: Verdict, bound: float | None, sentence: str) -> None:
    found = EvidenceStatus(metric="disagreement", verdict=verdict, requests_needed=12)
    assert tally.told(found, Shadow(max_disagreement=bound), alpha=0.05) == sentence
