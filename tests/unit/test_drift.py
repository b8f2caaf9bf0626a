"""Drift through the whole engine: what a rollout makes of a candidate that predicts something else."""

from functools import partial
from typing import Any

import pytest

from modelramp.api.status import Status
from modelramp.domain.drift import Memory, fresh_of
from tests.unit import simulation
from tests.unit.simulation import SPEC, Behaviour, Killed, Operator, SimulatedWorld, run

until = partial(simulation.until, seconds=400)
EVEN = {"0": 0.25, "1": 0.25, "2": 0.25, "3": 0.25}
LAZY = {"0": 0.7, "1": 0.1, "2": 0.1, "3": 0.1}
LAZIER = {"0": 1.0}
NEARLY = {"0": 0.27, "1": 0.23, "2": 0.25, "3": 0.25}


def spec(drift: dict[str, Any] | None = None, **rollout: Any) -> dict[str, Any]:
    objectives = {} if drift is None else {"drift": drift}
    steps = [{"weight": 10, "hold": "60s"}, {"weight": 50, "hold": "60s"}]
    changed = {**SPEC["rollout"], "steps": steps, "analysis": {"objectives": objectives}, **rollout}
    return {**SPEC, "rollout": changed}


async def serving(
    classes: dict[str, float], drift: dict[str, Any] | None = None, **rollout: Any
) -> tuple[SimulatedWorld, Operator]:
    """Version 1 predicts four classes evenly; version 2, which predicts `classes`, is asked for."""
    world = SimulatedWorld(spec(drift, **rollout))
    world.behaviours = {1: Behaviour(classes=EVEN), 2: Behaviour(classes=classes)}
    operator = Operator(world)
    await run(world, operator, 10)
    world.aliases["prod"] = 2
    return world, operator


def evidence(status: dict[str, Any]) -> dict[str, Any]:
    return next((e for e in status.get("evidence", []) if e["metric"] == "drift"), {})


def promoted(status: dict[str, Any]) -> bool:
    return bool(status["stable"]["version"] == 2)


def paused(status: dict[str, Any]) -> bool:
    return bool(status["phase"] == "Paused" and status["reason"] == "PredictionDrift")


def command(world: SimulatedWorld, verb: str) -> None:
    world.command(verb, f"{world.status['candidate']['revision']}#{len(world.writes)}")


async def test_drift_pauses_for_a_person_and_says_what_moved() -> None:
    world, operator = await serving(LAZY)
    status = await until(world, operator, paused)
    assert "0.45 away from" in status["message"]
    assert "class 0: 25.0 % to 70." in status["message"]
    assert "more than 0.1 with confidence 95 %" in status["message"]
    assert status["traffic"]["weight"] == 10
    await run(world, operator, 600)
    assert paused(world.status), "nobody has said anything"
    assert world.status["traffic"]["weight"] == 10
    assert not world.status.get("rejected")


async def test_the_entry_tells_distance_answers_and_verdict() -> None:
    world, operator = await serving(LAZY)
    told = evidence(await until(world, operator, paused))
    assert told["verdict"] == "Fail"
    assert told["distance"] == pytest.approx(0.45, abs=0.02)
    assert told["requests"] > 250
    assert told["stableRequests"] > 8 * told["requests"]
    errors = next(e for e in world.status["evidence"] if e["metric"] == "errors")
    assert errors["requests"] + errors["requestsNeeded"] == 357, "drift that is only watched takes no part of alpha"


async def test_resume_goes_on_with_the_same_evidence_and_does_not_pause_again() -> None:
    world, operator = await serving(LAZY)
    before = await until(world, operator, paused)
    command(world, "resume")
    await until(world, operator, promoted)
    attempts = [h for h in world.status["history"] if h["action"] == "CandidateStarted" and h["version"] == 2]
    assert len(attempts) == 1, "no new attempt"
    assert [h["reason"] for h in world.status["history"] if h["action"] == "Paused"] == ["PredictionDrift"]
    assert before["candidate"]["attempt"] == 1


async def test_what_gets_much_farther_after_a_resume_pauses_again() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, paused)
    command(world, "resume")
    status = await until(world, operator, lambda s: s["phase"] == "Ramping")
    assert status["candidate"]["driftAccepted"] == pytest.approx(0.45, abs=0.02)
    world.behaviours[2] = Behaviour(classes=LAZIER)
    status = await until(world, operator, paused)
    assert "more than 0.5" in status["message"]


async def test_promote_ends_the_pause() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, paused)
    command(world, "promote")
    await until(world, operator, promoted)
    assert [h["reason"] for h in world.status["history"] if h["action"] == "Paused"] == ["PredictionDrift"]


async def test_what_is_watched_takes_no_part_of_alpha_and_gives_none() -> None:
    analysis = {"objectives": {"latency": {}, "drift": {"pauseAbove": 0.2}}}
    world, operator = await serving(LAZY, analysis=analysis)
    status = await until(world, operator, paused)
    assert "more than 0.2 with confidence 95 %" in status["message"]


async def test_abort_rejects() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, paused)
    command(world, "abort")
    status = await until(world, operator, lambda s: bool(s.get("rejected")))
    assert status["rejected"][0]["reason"] == "AbortCommanded"


async def test_a_pause_of_the_steps_comes_first_and_drift_after_it() -> None:
    steps = [{"weight": 10, "hold": "5s"}, {"pause": {"duration": "60s"}}, {"weight": 50, "hold": "5s"}]
    world, operator = await serving(LAZY, steps=steps)
    status = await until(world, operator, lambda s: evidence(s).get("verdict") == "Fail")
    assert status["reason"] == "PauseStep"
    status = await until(world, operator, paused)
    assert status["traffic"]["weight"] == 10, "the weight does not rise"


async def test_a_failure_aborts_out_of_the_pause() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, paused)
    world.behaviours[2] = Behaviour(classes=LAZY, bad_rate=0.5)
    status = await until(world, operator, lambda s: bool(s.get("rejected")))
    assert status["rejected"][0]["reason"] == "AnalysisFailed"
    assert "candidate failed" in status["rejected"][0]["message"]
    assert "away from" not in status["rejected"][0]["message"], "drift is no part of why"


async def test_nearly_the_same_is_promoted_and_never_paused() -> None:
    world, operator = await serving(NEARLY)
    await until(world, operator, promoted)
    assert not [h for h in world.status["history"] if h["action"] == "Paused"]


async def test_off_is_off() -> None:
    world, operator = await serving(LAZY, {"enabled": False})
    await until(world, operator, lambda s: s["phase"] == "Ramping" and bool(s["evidence"]))
    assert not evidence(world.status)
    await until(world, operator, promoted)


async def test_turned_off_in_the_pause_it_may_be_resumed() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, paused)
    world.edit(rollout=spec({"enabled": False})["rollout"])
    await until(world, operator, lambda s: not evidence(s))
    command(world, "resume")
    await until(world, operator, promoted)


async def test_a_pause_is_at_the_distance_that_the_spec_allows() -> None:
    world, operator = await serving(LAZY, {"pauseAbove": 0.6})
    await until(world, operator, promoted)


async def test_beyond_a_users_bound_is_taken_back() -> None:
    world, operator = await serving(LAZY, {"max": 0.2})
    status = await until(world, operator, lambda s: bool(s.get("rejected")))
    rejected = status["rejected"][0]
    assert rejected["reason"] == "AnalysisFailed"
    assert rejected["message"].startswith("drift: what ")
    assert "class 0: 25.0 % to 70." in rejected["message"]
    assert "more than 0.2 with confidence 97.5 %" in rejected["message"]
    assert status["stable"]["version"] == 1


async def test_within_a_users_bound_is_promoted_with_a_certificate() -> None:
    world, operator = await serving(NEARLY, {"max": 0.2})
    await until(world, operator, promoted)
    told = next(event.message for event in world.events if event.reason == "Promoting")
    assert "drift: what " in told
    assert "less than 0.2 with confidence 97.5 %" in told


async def test_a_bound_takes_a_certificate_and_says_how_many_answers_it_needs() -> None:
    world, operator = await serving(NEARLY, {"max": 0.1}, steps=[{"weight": 10, "hold": "1s"}])
    status = await until(
        world, operator, lambda s: s["reason"] == "AwaitingVerdict" and bool(evidence(s).get("distance"))
    )
    told = evidence(status)
    assert told["verdict"] == "Inconclusive"
    assert 0 < told["requestsNeeded"] < 20_000
    assert told["secondsNeeded"] > 0
    await until(world, operator, promoted)


async def test_a_model_without_classes_is_left_in_peace_but_passes_no_bound() -> None:
    world, operator = await serving({})
    world.behaviours[1] = Behaviour()
    await until(world, operator, promoted)
    bound, other = await serving({}, {"max": 0.2}, maxDuration="1m")
    status = await until(bound, other, lambda s: s["reason"] == "AwaitingVerdict")
    assert "0 answers of the candidate" in evidence(status)["message"]
    assert "distance" not in evidence(status)


async def test_pods_that_tell_nothing_are_told_of_where_a_bound_is_set() -> None:
    drifts: list[dict[str, Any] | None] = [{"max": 0.2}, None]
    for drift in drifts:
        world, operator = await serving(NEARLY, drift)
        await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)
        world.deaf = True
        status = await until(world, operator, lambda s: s["reason"] == "NoEvidence")
        assert evidence(status)["verdict"] == "Error"
        assert ("drift: " in status["message"]) == (drift is not None)


async def test_an_operator_that_restarts_goes_on_where_it_was() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, lambda s: evidence(s).get("requests", 0) > 100)
    counted = evidence(world.status)["requests"]
    world_after = Operator(world)
    status = await until(world, world_after, lambda s: evidence(s)["requests"] > counted)
    assert evidence(status)["requests"] <= counted + 2 * 5 * 10 + 10
    await until(world, world_after, paused)


@pytest.mark.parametrize("when", ["kill_before", "kill_after"])
async def test_killed_around_the_pause_and_the_resume_it_pauses_once(when: str) -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, paused)
    before_pause = max(index for index, what in enumerate(world.writes) if what.endswith("Paused PredictionDrift"))
    world, operator = await serving(LAZY)
    setattr(world, when, before_pause)
    with pytest.raises(Killed):
        await until(world, operator, lambda s: False)
    world.kill_before = world.kill_after = None
    operator = Operator(world)
    await until(world, operator, paused)
    command(world, "resume")
    setattr(world, when, len(world.writes))
    with pytest.raises(Killed):
        await until(world, operator, lambda s: False)
    world.kill_before = world.kill_after = None
    await until(world, Operator(world), promoted)
    assert [h["reason"] for h in world.status["history"] if h["action"] == "Paused"] == ["PredictionDrift"]


async def test_a_new_attempt_forgets_what_was_let_pass() -> None:
    world, operator = await serving(LAZY, onFailure="Pause")
    await until(world, operator, paused)
    command(world, "resume")
    await until(world, operator, lambda s: s["phase"] == "Ramping")
    world.behaviours[2] = Behaviour(classes=LAZY, bad_rate=0.5)
    await until(world, operator, lambda s: s["phase"] == "Paused" and s["reason"] == "AnalysisFailed")
    world.behaviours[2] = Behaviour(classes=LAZY)
    command(world, "resume")
    status = await until(world, operator, paused)
    assert status["candidate"]["attempt"] == 2


def test_what_was_counted_before_the_attempt_is_a_baseline() -> None:
    assert fresh_of({"a@1": {"x": 10}}, {"a@1": {"x": 12}, "b@2": {"x": 500}, "c@9": {"x": 4}}, {"c@9"}) == {"x": 6}


def test_counters_that_fell_begin_anew_and_vanished_ones_tell_nothing() -> None:
    before = {"a@1": {"x": 10, "y": 5}, "b@1": {"x": 7}}
    now = {"a@1": {"x": 12, "y": 2}, "c@9": {"z": 4}}
    assert fresh_of(before, now, now) == {"x": 2, "y": 2, "z": 4}


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"limit": 1, "tests": {"candidate": []}}', '"x"'])
def test_a_memory_that_cannot_be_read_begins_afresh(text: str) -> None:
    assert Memory.load(text) == Memory()


async def test_the_memory_survives_the_status() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, lambda s: evidence(s).get("requests", 0) > 100)
    entry = next(e for e in Status.model_validate(world.status).evidence if e.metric == "drift")
    memory = Memory.load(entry.state)
    assert memory.comparison.candidate.answers == entry.requests
    assert Memory.load(memory.dump()) == memory
    assert len(memory.candidate) == 2, "one per stable pod"


async def test_pods_that_are_gone_are_forgotten() -> None:
    world, operator = await serving(LAZY)
    await until(world, operator, lambda s: evidence(s).get("requests", 0) > 100)
    gone = next(name for name, pod in world.pods.items() if pod.version == 1)
    del world.pods[gone]
    await run(world, operator, 10)
    memory = Memory.load(evidence(world.status)["state"])
    assert not any(container.startswith(gone) for container in memory.stable)
