"""What each gate makes of answers that are missing, late, or somebody else's fault; and what the spec may say."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from modelramp.api.gates import Gates, MetricGate, Smoke, TagGate
from modelramp.api.status import GateState
from modelramp.domain import gate_rules
from modelramp.domain.findings import Inference, Questions, Served, SmokeTest
from modelramp.domain.gate_rules import Outcome
from modelramp.domain.gates import listed
from modelramp.domain.world import ModelVersion, Pod, Unreachable
from modelramp.engine.inquiry import Inquiry
from modelramp.engine.registries import Registries, RegistryConfig
from tests.unit.simulation import SPEC, SimulatedWorld

SILENT = Unreachable("no answer")
COMPARED = MetricGate(name="a", not_worse_than_stable_by=0.1, higher_is_better=True)
TAG = TagGate(name="validated", value="true")
TEST = SmokeTest()
LONG = "x" * 100


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (gate_rules.metric(COMPARED, None, None, alone=False), "Gating"),
        (gate_rules.metric(COMPARED, SILENT, None, alone=False), "RegistryUnavailable"),
        (gate_rules.metric(COMPARED, {"a": 1.0}, None, alone=False), "Gating"),
        (gate_rules.metric(COMPARED, {"a": 1.0}, SILENT, alone=False), "RegistryUnavailable"),
        (gate_rules.tag(TAG, None), "Gating"),
        (gate_rules.tag(TAG, SILENT), "RegistryUnavailable"),
        (gate_rules.tag(TAG, {}), "AwaitingTag"),
        (gate_rules.inputs(None, None, alone=False), "Gating"),
        (gate_rules.inputs((), SILENT, alone=False), "PodUnreachable"),
        (gate_rules.smoke(TEST, None), "Gating"),
        (gate_rules.smoke(TEST, SILENT), "PodUnreachable"),
        (gate_rules.smoke(TEST, Inference(503, "", 0.0)), "PodUnreachable"),
    ],
)
def test_what_is_not_known_waits(outcome: Outcome, reason: str) -> None:
    assert (outcome.state, outcome.reason) == (GateState.WAITING, reason)


def test_a_comparison_with_a_number_that_is_none_passes_and_says_so() -> None:
    outcome = gate_rules.metric(COMPARED, {"a": 1.0}, {"a": float("nan")}, alone=False)
    assert (outcome.state, outcome.message) == (
        GateState.PASSED,
        "a is 1; stable's run has no such number to compare with",
    )


@pytest.mark.parametrize(
    ("wanted", "given", "says"),
    [
        (True, 1, "p is 1, expected is True"),
        (1, True, "p is True, expected is 1"),
        (1, 1.0000001, ""),
        ([1], {"a": 1}, "p is {'a': 1}, expected is [1]"),
        (None, None, ""),
        (LONG, "y", f"p is 'y', expected is '{LONG[:59]}..."),
        ({"a": [1, 2]}, {"a": [1, 3], "b": 0}, "p.a[1] is 3, expected is 2 within 1e-06"),
    ],
)
def test_an_answer_is_compared_by_kind_and_place(wanted: Any, given: Any, says: str) -> None:
    assert gate_rules.difference({"p": wanted}, {"p": given}, 1e-6) == says


@pytest.mark.parametrize(
    ("body", "found"),
    [({"p": [1.5, [float("inf")]]}, "inf"), ({"p": {"q": ["-Infinity"]}}, "-Infinity"), ({"p": ["nan", 0, None]}, "")],
)
def test_numbers_that_are_none_are_found_wherever_they_are(body: Any, found: str) -> None:
    assert gate_rules.non_finite(body) == found


def test_many_metrics_are_not_all_listed() -> None:
    outcome = gate_rules.metric(COMPARED, {f"m{n:02}": 1.0 for n in range(30)}, {}, alone=True)
    assert "m09 and 20 more" in outcome.message and "m10" not in outcome.message


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("2s", 2.0)])
def test_a_latency_is_read_and_written(text: str, seconds: float) -> None:
    smoke = Smoke.model_validate({"latency": text})
    assert smoke.latency == timedelta(seconds=seconds)
    assert Smoke.model_validate(smoke.model_dump(mode="json")) == smoke


def test_a_latency_that_is_none_is_refused_in_words() -> None:
    with pytest.raises(ValidationError, match="write it like 500ms or 2s"):
        Smoke.model_validate({"latency": "fast"})


def test_every_gate_has_a_hash_of_what_it_asks() -> None:
    body = {"input": {"inputs": [1]}}
    spec = {"metrics": [{"name": "a", "min": 1}, {"name": "a", "max": 2}], "smoke": {"examples": [body, body]}}
    gates = listed(Gates.model_validate(spec))
    assert [gate.name for gate in gates] == [
        "metric a",
        "metric a",
        "inputs",
        "smoke example",
        "smoke examples[0]",
        "smoke examples[1]",
    ]
    assert len({gate.hash for gate in gates}) == len(gates)


async def test_the_operators_credentials_tell_nothing_of_models_that_the_namespace_may_not_use() -> None:
    world = SimulatedWorld(SPEC)
    world.metrics_of = {1: {"a": 1.0}}
    config = RegistryConfig("http://mlflow", models=("digits*",))
    registries = Registries({"default": config}, {"default": world}, world, lambda _: None)
    mine = ModelVersion("default", "digits", 1, "", "", 0)
    assert await registries.metrics("shop", mine) == {"a": 1.0}
    for other in (ModelVersion("default", "secrets", 1, "", "", 0), ModelVersion("gone", "digits", 1, "", "", 0)):
        for told in (await registries.metrics("shop", other), await registries.tags("shop", other)):
            assert isinstance(told, Unreachable) and "may not use" in told.message
    assert world.asked == ["metrics 1"]


async def test_a_slow_answer_among_three_does_not_count() -> None:
    world = SimulatedWorld(SPEC)
    answers = iter([0.9, 0.1, 0.2])

    async def infer(*_: Any) -> Inference:
        return Inference(200, {"predictions": [1]}, next(answers))

    world.infer = infer  # type: ignore[method-assign]
    registries = Registries({}, {}, world, lambda _: None)
    test = SmokeTest({"inputs": [1]}, latency=timedelta(seconds=0.5))
    questions = Questions(smoke=("hash", test, Served(Pod("p", "3f2a9c01"), "digits")))
    findings = await Inquiry(registries, world).ask("shop", questions)
    assert findings.smoke == {"hash": Inference(200, {"predictions": [1]}, 0.2)}
