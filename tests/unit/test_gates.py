"""The gates before any request, each rule through the whole engine on a simulated cluster."""

import copy
from typing import Any

import pytest

from modelramp.domain.findings import Inference, Tensor
from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld, run, serves, until


def spec(**gates: Any) -> dict[str, Any]:
    changed = copy.deepcopy(SPEC)
    changed["rollout"]["gates"] = gates
    return changed


async def moved(world: SimulatedWorld, seconds: float = 20) -> Operator:
    """Version 1 serves, whatever the gates; then the alias names version 2."""
    operator = Operator(world)
    gates = world.owner["spec"]["rollout"].pop("gates")  # type: ignore[index]
    await run(world, operator, 10)
    assert world.status["stable"]["version"] == 1
    world.edit(rollout={**SPEC["rollout"], "gates": gates})
    await run(world, operator, 2)
    world.aliases["prod"] = 2
    world.asked.clear()
    world.events.clear()
    await run(world, operator, seconds)
    return operator


def gates(world: SimulatedWorld) -> dict[str, tuple[str, str]]:
    return {gate["name"]: (gate["state"], gate["message"]) for gate in world.status["candidate"]["gates"]}


def rejected(world: SimulatedWorld) -> list[tuple[int, str, str]]:
    return [(r["version"], r["reason"], r["message"]) for r in world.status["rejected"]]


def told(world: SimulatedWorld) -> list[str]:
    return [event.reason for event in world.events]


AT_LEAST = {"name": "val_dice", "min": 0.8}
AT_MOST = {"name": "val_loss", "max": 0.3}
NOT_WORSE = {"name": "val_dice", "notWorseThanStableBy": 0.01, "higherIsBetter": True}
NOT_ABOVE = {"name": "val_loss", "notWorseThanStableBy": 0.01, "higherIsBetter": False}


@pytest.mark.parametrize(
    ("gate", "metrics", "stable", "says"),
    [
        (AT_LEAST, {"val_dice": 0.71}, {}, "val_dice is 0.71, it must be at least 0.8"),
        (AT_LEAST, {"val_dice": float("nan")}, {}, "val_dice is nan, it must be at least 0.8"),
        (AT_MOST, {"val_loss": 0.5}, {}, "val_loss is 0.5, it must be at most 0.3"),
        (AT_MOST, {"b": 1, "a": 1}, {}, "the run has no metric val_loss (it has: a, b); log it in the run"),
        (AT_LEAST, {}, {"val_dice": 0.9}, "the run has no metric val_dice (it has: none); log it in the run"),
        (
            NOT_WORSE,
            {"val_dice": 0.88},
            {"val_dice": 0.9},
            "val_dice is 0.88, stable's is 0.9: worse by 0.02, allowed is 0.01",
        ),
        (
            NOT_ABOVE,
            {"val_loss": 0.32},
            {"val_loss": 0.3},
            "val_loss is 0.32, stable's is 0.3: worse by 0.02, allowed is 0.01",
        ),
    ],
)
async def test_a_metric_that_does_not_suffice_rejects_with_the_numbers(
    gate: dict[str, Any], metrics: dict[str, float], stable: dict[str, float], says: str
) -> None:
    world = SimulatedWorld(spec(metrics=[gate]))
    world.metrics_of = {1: stable, 2: metrics}
    await moved(world)
    assert rejected(world) == [(2, "GateFailed", f"gate metric {gate['name']}: {says}")]
    assert world.status["stable"]["version"] == 1
    assert not any("annotate" in write for write in world.writes)
    assert "Rejected" in told(world) and "GatePassed" not in told(world)


@pytest.mark.parametrize(
    ("gate", "metrics", "stable"),
    [
        (AT_LEAST, {"val_dice": 0.8}, {}),
        (AT_MOST, {"val_loss": 0.3}, {}),
        ({**AT_LEAST, "max": 0.9}, {"val_dice": 0.85}, {}),
        (NOT_WORSE, {"val_dice": 0.89}, {"val_dice": 0.90}),
        (NOT_WORSE, {"val_dice": 0.95}, {"val_dice": 0.90}),
        (NOT_ABOVE, {"val_loss": 0.1}, {"val_loss": 0.3}),
        (NOT_WORSE, {"val_dice": 0.5}, {}),
    ],
)
async def test_a_metric_that_suffices_lets_it_go_on(
    gate: dict[str, Any], metrics: dict[str, float], stable: dict[str, float]
) -> None:
    world = SimulatedWorld(spec(metrics=[gate]))
    world.metrics_of = {1: stable, 2: metrics}
    await moved(world, 10)
    assert world.status["phase"] == "Ramping"
    assert gates(world)[f"metric {gate['name']}"][0] == "Passed"
    assert told(world).count("GatePassed") == 1
    assert world.asked.count("metrics 2") == 1


async def test_a_failed_metric_costs_no_pod() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST]))
    world.behaviours[2] = Behaviour(ready_after=float("inf"))
    await moved(world, 5)
    assert [version for version, _, _ in rejected(world)] == [2]


async def test_without_a_stable_version_a_comparison_passes_and_says_so() -> None:
    world = SimulatedWorld(spec(metrics=[NOT_WORSE], tags=[{"name": "validated", "value": "true"}]))
    world.metrics_of = {1: {"val_dice": 0.5}}
    await run(world, Operator(world), 10)
    assert gates(world)["metric val_dice"] == (
        "Passed",
        "val_dice is 0.5; there is no stable version to compare with",
    )
    assert "no stable version" in gates(world)["inputs"][1]


async def test_a_comparison_that_passed_while_stable_was_down_is_made_once_it_is_back() -> None:
    world = SimulatedWorld(spec())
    operator = Operator(world)
    await until(world, operator, serves(1))
    world.behaviours = {
        1: Behaviour(ready_after=float("inf")),
        2: Behaviour(ready_after=20.0, inputs=(Tensor("renamed", "FP64", (-1, 64)), Tensor("new", "FP64", (-1,)))),
    }
    world.aliases["prod"] = 2
    await until(world, operator, lambda s: "candidate" in s and "no stable version" in gates(world)["inputs"][1])
    world.behaviours[1] = Behaviour()
    await until(world, operator, lambda s: bool(s["rejected"]))
    assert [(version, reason) for version, reason, _ in rejected(world)] == [(2, "GateFailed")]


async def test_a_first_version_that_fails_a_gate_does_not_serve_until_it_passes() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST]))
    world.metrics_of = {1: {"val_dice": 0.7}}
    operator = Operator(world)
    await run(world, operator, 100)
    assert (world.status["phase"], world.status["reason"]) == ("Pending", "GateFailed")
    assert world.status.get("stable") is None and not world.status["rejected"]
    assert {c["type"] for c in world.status["conditions"]} == {"Ready", "Stalled"}
    assert told(world).count("GateFailed") == 1
    world.metrics_of = {1: {"val_dice": 0.9}}
    await run(world, operator, 20)
    assert world.status["stable"]["version"] == 1


async def test_an_unreachable_registry_holds_and_rejects_nothing() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST]))
    world.metrics_of = {2: {"val_dice": 0.9}}
    operator = await moved(world, 0)
    await operator.step()  # the alias is read
    world.registry_up = False
    await run(world, operator, 200)
    assert (world.status["phase"], world.status["reason"]) == ("Gating", "RegistryUnavailable")
    assert "connection refused" in world.status["message"]
    world.registry_up = True
    await run(world, operator, 18)
    assert world.status["phase"] == "Ramping" and not world.status["rejected"]


async def test_a_tag_is_waited_for_and_never_rejects() -> None:
    world = SimulatedWorld(spec(tags=[{"name": "validated", "value": "true"}]))
    world.tags_of = {2: {"validated": "running"}}
    operator = await moved(world, 300)
    assert (world.status["phase"], world.status["reason"]) == ("Gating", "AwaitingTag")
    assert world.status["message"] == (
        "gate tag validated: set tag validated to 'true' on the model version; it says 'running'"
    )
    assert told(world).count("AwaitingTag") == 1
    assert 10 <= world.asked.count("tags 2") <= 21
    before = len(world.writes)
    await run(world, operator, 60)
    assert world.writes[before:] == []
    world.tags_of = {2: {"validated": "true"}}
    await run(world, operator, 18)
    assert world.status["phase"] == "Ramping" and not world.status["rejected"]


async def test_the_time_of_waiting_for_a_tag_is_not_held_against_pods_that_restart() -> None:
    world = SimulatedWorld(spec(tags=[{"name": "validated", "value": "true"}]))
    operator = await moved(world, 300)
    for pod in world.pods.values():
        pod.born = world.time if pod.version == 2 else pod.born
    await run(world, operator, 10)
    assert not world.status["rejected"]


async def test_a_restart_does_not_repeat_gates_that_have_passed() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST], tags=[{"name": "validated", "value": "true"}]))
    world.metrics_of = {2: {"val_dice": 0.9}}
    await moved(world)
    world.asked.clear()
    await run(world, Operator(world), 30)
    assert set(world.asked) == {"tags 2"}


async def test_an_edited_gate_is_asked_again() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST], tags=[{"name": "validated", "value": "true"}]))
    world.metrics_of = {2: {"val_dice": 0.9}}
    operator = await moved(world)
    stricter = {"metrics": [{"name": "val_dice", "min": 0.95}], "tags": [{"name": "validated", "value": "true"}]}
    world.edit(rollout={**SPEC["rollout"], "gates": stricter})
    await run(world, operator, 20)
    assert rejected(world) == [(2, "GateFailed", "gate metric val_dice: val_dice is 0.9, it must be at least 0.95")]


async def test_a_retry_asks_again() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST]))
    world.metrics_of = {2: {"val_dice": 0.7}}
    operator = await moved(world)
    world.metrics_of = {2: {"val_dice": 0.9}}
    world.command("retry", f"{world.status['rejected'][0]['revision']}#1")
    await run(world, operator, 10)
    assert world.status["phase"] == "Ramping"


async def test_on_failure_pause_a_person_decides_and_resume_asks_again() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST]))
    world.metrics_of = {2: {"val_dice": 0.7}}
    operator = await moved(world, 0)
    world.edit(rollout={**world.owner["spec"]["rollout"], "onFailure": "Pause"})  # type: ignore[index]
    await run(world, operator, 10)
    assert (world.status["phase"], world.status["reason"]) == ("Paused", "GateFailed")
    world.metrics_of = {2: {"val_dice": 0.9}}
    world.tick(20)
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await run(world, operator, 15)
    assert world.status["phase"] == "Ramping"


EXAMPLE = {"inputs": [[0.0] * 4]}


@pytest.mark.parametrize(
    ("answer", "smoke", "says"),
    [
        (Inference(500, {"error": "boom"}, 0.01), {}, "the candidate answered 500: boom"),
        (Inference(500, {"error": "boom"}, 0.01), {"latency": "1s"}, "the candidate answered 500: boom"),
        (Inference(400, {"error": "no column x"}, 0.01), {}, "the candidate answered 400: no column x"),
        (Inference(200, {"predictions": [[1.0, "NaN"]]}, 0.01), {}, "the answer has numbers that are not finite (NaN)"),
        (
            Inference(200, {"predictions": [1]}, 0.7),
            {"latency": "500ms"},
            "the median of three took 700 ms, allowed are 500 ms",
        ),
    ],
)
async def test_an_example_that_fails_rejects_with_what_was_answered(
    answer: Inference, smoke: dict[str, Any], says: str
) -> None:
    world = SimulatedWorld(spec(smoke=smoke))
    world.behaviours[2] = Behaviour(example=EXAMPLE, answer=answer)
    await moved(world)
    assert rejected(world) == [(2, "SmokeFailed", f"gate smoke example: {says}")]
    assert not any("annotate" in write for write in world.writes)


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"predictions": [[0.1, 0.9]]}, ""),
        ({"predictions": [[0.1, 0.904]]}, ""),
        ({"predictions": [[0.1, 0.8]]}, "predictions[0][1] is 0.9, expected is 0.8 within 0.01"),
        ({"predictions": [[0.1]]}, "predictions[0] has 2 values, expected are 1"),
        ({"predictions": ["cat"]}, "predictions[0] is [0.1, 0.9], expected is 'cat'"),
        ({"labels": []}, "the answer has no 'labels'"),
    ],
)
async def test_an_example_of_the_spec_is_compared_with_what_is_expected(expect: dict[str, Any], says: str) -> None:
    example = {"input": EXAMPLE, "expect": expect, "tolerance": 0.01}
    world = SimulatedWorld(spec(smoke={"example": False, "examples": [{"input": EXAMPLE}, example]}))
    world.behaviours[2] = Behaviour(answer=Inference(200, {"predictions": [[0.1, 0.9]], "model": 2}, 0.002))
    await moved(world, 10)
    assert rejected(world) == ([(2, "SmokeFailed", f"gate smoke examples[1]: {says}")] if says else [])
    assert len([asked for asked in world.asked if asked.startswith("infer")]) == 2


async def test_a_model_logged_without_an_example_passes_and_says_so() -> None:
    world = SimulatedWorld(spec())
    await moved(world, 10)
    assert world.status["phase"] == "Ramping"
    assert gates(world)["smoke example"] == ("Passed", "the model was logged without an input example")


@pytest.mark.parametrize("trouble", ["unreachable", "busy"])
async def test_a_pod_that_cannot_be_asked_holds_and_rejects_nothing(trouble: str) -> None:
    world = SimulatedWorld(spec())
    good = Behaviour(example=EXAMPLE)
    busy = Behaviour(example=EXAMPLE, answer=Inference(503, {"error": "the queue is full"}, 0.0))
    world.behaviours[2] = busy if trouble == "busy" else good
    operator = await moved(world, 0)
    world.pods_reachable = trouble == "busy"
    await run(world, operator, 200)
    assert (world.status["phase"], world.status["reason"]) == ("Gating", "PodUnreachable")
    world.pods_reachable, world.behaviours[2] = True, good
    await run(world, operator, 10)
    assert world.status["phase"] == "Ramping" and not world.status["rejected"]


STABLE = (Tensor("x", "FP32", (-1, 64)), Tensor("mask", "BOOL", (-1,)))


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        ((STABLE[1], STABLE[0]), ""),
        ((Tensor("x", "FP64", (-1, -1)), STABLE[1]), ""),
        ((STABLE[0],), "input 'mask' is gone (there are: x)"),
        ((*STABLE, Tensor("y", "FP32", (-1,))), "input 'y' is new and must be given"),
        ((Tensor("x", "FP16", (-1, 64)), STABLE[1]), "input 'x' was FP32 and is FP16"),
        ((Tensor("x", "INT64", (-1, 64)), STABLE[1]), "input 'x' was FP32 and is INT64"),
        ((Tensor("x", "FP32", (1, 64)), STABLE[1]), "input 'x' had shape [-1, 64] and has [1, 64]"),
        ((Tensor("x", "FP32", (-1,)), STABLE[1]), "input 'x' had shape [-1, 64] and has [-1]"),
        ((), ""),
    ],
)
async def test_a_candidate_must_accept_what_stable_accepts(candidate: tuple[Tensor, ...], says: str) -> None:
    world = SimulatedWorld(spec())
    world.behaviours = {1: Behaviour(inputs=STABLE), 2: Behaviour(inputs=candidate)}
    await moved(world, 10)
    wanted = f"gate inputs: {says}; spec.rollout.gates.inputs: Any allows it"
    assert rejected(world) == ([(2, "GateFailed", wanted)] if says else [])
    assert says or gates(world)["inputs"][0] == "Passed"


async def test_a_model_with_one_input_also_answers_to_the_common_name() -> None:
    world = SimulatedWorld(spec())
    world.behaviours[2] = Behaviour(inputs=(Tensor("X", "FP64", (-1, 64)),))
    await moved(world, 10)
    assert gates(world)["inputs"][0] == "Passed"


async def test_any_inputs_are_allowed_where_the_spec_says_so() -> None:
    world = SimulatedWorld(spec(inputs="Any"))
    world.behaviours = {1: Behaviour(inputs=STABLE), 2: Behaviour(inputs=(STABLE[0],))}
    await moved(world, 10)
    assert world.status["phase"] == "Ramping"
    assert not any(asked.startswith("inputs") for asked in world.asked)


async def test_gates_are_shut_before_any_weight_and_before_the_first_version_serves() -> None:
    world = SimulatedWorld(spec(smoke={"example": False, "examples": [{"input": EXAMPLE}] * 3}))
    world.pods_reachable = False
    operator = Operator(world)
    await run(world, operator, 30)
    assert world.status["phase"] == "Pending" and world.status["reason"] == "PodUnreachable"
    world.pods_reachable = True
    await run(world, operator, 10)
    assert world.status["stable"]["version"] == 1


async def test_a_superseded_candidate_and_a_suspended_object_are_not_asked_about() -> None:
    world = SimulatedWorld(spec(tags=[{"name": "validated", "value": "true"}]))
    operator = await moved(world, 10)
    world.edit(suspend=True)
    world.asked.clear()
    await run(world, operator, 20)
    assert world.asked == []
    world.edit(suspend=False)
    world.aliases["prod"] = 3
    await operator.step()
    assert world.status["candidate"]["abort"]["reason"] == "Superseded"
    assert world.asked == []


async def test_three_answers_that_are_quick_enough_pass_with_their_median() -> None:
    world = SimulatedWorld(spec(smoke={"latency": "500ms"}))
    world.behaviours[2] = Behaviour(example=EXAMPLE)
    await moved(world, 10)
    assert gates(world)["smoke example"] == ("Passed", "the median of three took 2 ms")
    assert len([asked for asked in world.asked if asked.startswith("infer")]) == 3


async def test_a_new_attempt_passes_all_gates_again() -> None:
    world = SimulatedWorld(spec(metrics=[AT_LEAST]))
    world.metrics_of = {2: {"val_dice": 0.9}}
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    operator = await moved(world, 0)
    world.edit(rollout={**world.owner["spec"]["rollout"], "onFailure": "Pause"})  # type: ignore[index]
    await run(world, operator, 30)
    assert (world.status["phase"], world.status["reason"]) == ("Paused", "AnalysisFailed")
    world.asked.clear()
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await run(world, operator, 3)
    assert world.status["candidate"]["attempt"] == 2
    assert set(world.asked) == {"metrics 2", "inputs 2", "inputs 1", "example 2"}


async def test_a_gate_that_waits_is_asked_again_by_the_clock_and_one_that_passes_leads_on_at_once() -> None:
    world = SimulatedWorld(spec(tags=[{"name": "validated", "value": "true"}]))
    operator = await moved(world)
    assert await operator.step() == 5.0
    world.tags_of = {2: {"validated": "true"}}
    world.edit(
        rollout={**SPEC["rollout"], "gates": {"smoke": {"example": False, "examples": [{"input": EXAMPLE}] * 3}}}
    )
    for passed in (2, 3):
        assert await operator.step() == 0.0
        assert [state for state, _ in gates(world).values()].count("Passed") == passed


@pytest.mark.parametrize("example", [True, False])
async def test_an_attempt_begins_with_its_gates_listed_and_tells_once_that_they_have_passed(example: bool) -> None:
    world = SimulatedWorld(spec(smoke={"example": example}))
    operator = Operator(world)
    while "candidate" not in world.status:
        await operator.step()
    listed = {name: state for name, (state, _) in gates(world).items()}
    assert listed == {"inputs": "Passed"} | ({"smoke example": "Waiting"} if example else {})
    await run(world, operator, 10)
    assert told(world) == ["CandidateStarted", "GatePassed", "Promoted"]
