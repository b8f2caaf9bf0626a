"""What Prometheus is told of the operator, and what its log says: from passes over a simulated cluster."""

import json
import logging

import pytest
from aiohttp.test_utils import TestClient, TestServer

from modelramp.adapters.kube_api import APPLY_PATCH, MERGE_PATCH, written
from modelramp.domain.world import Fault
from modelramp.edge.health import Vitals
from modelramp.edge.logs import DecisionLog, JsonFormatter, TextFormatter
from modelramp.edge.metrics import Metrics
from modelramp.engine.queue import WorkQueue
from modelramp.ports import Conflict, Key, RegistryError
from tests.unit.simulation import KEY, SPEC, Behaviour, Operator, SimulatedWorld, run
from tests.unit.test_queue import FakeTimers


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if line.startswith(name)]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(WorkQueue(FakeTimers()))


async def test_passes_are_counted_by_outcome_and_those_who_wait_are_shown() -> None:
    timers = FakeTimers()
    queue = WorkQueue(timers)
    metrics = Metrics(queue)
    outcomes = iter([None, Conflict("changed"), ValueError("a bug")])

    async def handler(_: Key) -> float | None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return 5.0

    counted = metrics.counted(handler)
    assert await counted(KEY) == 5.0
    for error in (Conflict, ValueError):
        with pytest.raises(error):
            await counted(KEY)
    queue.add(KEY)
    timers.advance(3)
    queue.add(Key("shop", "other"))
    metrics.leads()
    async with TestClient(TestServer(Vitals(metrics).application())) as client:
        text = await (await client.get("/metrics")).text()
    for line in (
        'modelramp_reconcile_passes_total{outcome="ok"} 1.0',
        'modelramp_reconcile_passes_total{outcome="conflict"} 1.0',
        'modelramp_reconcile_passes_total{outcome="error"} 1.0',
        "modelramp_reconcile_seconds_count 3.0",
        "modelramp_queue_depth 2.0",
        "modelramp_queue_oldest_seconds 3.0",
        "modelramp_leader 1.0",
    ):
        assert line in text


async def test_rollouts_are_counted_by_outcome(metrics: Metrics) -> None:
    world = SimulatedWorld(SPEC)
    operator = Operator(world, [metrics])
    await run(world, operator, 10)
    assert lines(metrics, "modelramp_rollouts_finished_total{") == [], "a first revision is no rollout"
    world.behaviours[3] = Behaviour(bad_rate=0.2)
    for version, seconds in ((2, 100), (3, 60), (4, 10), (2, 20), (5, 10), (4, 2)):
        world.aliases["prod"] = version
        await run(world, operator, seconds)
    world.behaviours[6] = Behaviour(fault=Fault("Unschedulable", "no node fits", models_own=False))
    world.aliases["prod"] = 6
    await run(world, operator, 80)
    assert lines(metrics, "modelramp_rollouts_finished_total{") == [
        'modelramp_rollouts_finished_total{outcome="promoted"} 1.0',
        'modelramp_rollouts_finished_total{outcome="rejected"} 1.0',
        'modelramp_rollouts_finished_total{outcome="moved_back"} 1.0',
        'modelramp_rollouts_finished_total{outcome="superseded"} 2.0',
        'modelramp_rollouts_finished_total{outcome="released"} 1.0',
    ]


async def test_one_phase_is_shown_per_object_and_none_when_it_is_gone(metrics: Metrics) -> None:
    world = SimulatedWorld(SPEC)
    operator = Operator(world, [metrics])
    await run(world, operator, 10)
    assert lines(metrics, "modelramp_rollout_phase{") == [
        'modelramp_rollout_phase{name="digits",namespace="shop",phase="Stable"} 1.0'
    ]
    world.aliases["prod"] = 2
    await run(world, operator, 10)
    assert lines(metrics, "modelramp_rollout_phase{") == [
        'modelramp_rollout_phase{name="digits",namespace="shop",phase="Ramping"} 1.0'
    ]
    assert lines(metrics, "modelramp_rollout_weight{") == [
        'modelramp_rollout_weight{name="digits",namespace="shop"} 10.0'
    ]
    world.owner = None
    await operator.step()
    await operator.step()
    assert lines(metrics, "modelramp_rollout_phase{") == lines(metrics, "modelramp_rollout_weight{") == []


async def test_looks_are_counted_by_verdict(metrics: Metrics) -> None:
    world = SimulatedWorld(SPEC)
    operator = Operator(world, [metrics])
    await run(world, operator, 10)
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    world.aliases["prod"] = 2
    while world.status["phase"] != "Aborting":
        await operator.step()
        world.tick(0.5)
    counted = lines(metrics, "modelramp_analysis_looks_total{")
    assert 'modelramp_analysis_looks_total{metric="errors",verdict="Fail"} 1.0' in counted
    others = [float(line.split()[-1]) for line in counted if "Fail" not in line]
    assert 0 < sum(others) < 10, "a pass without a look is none"


async def test_a_registrys_errors_and_its_last_good_answer(metrics: Metrics) -> None:
    world = SimulatedWorld(SPEC)
    registry = metrics.measured("default", world, world)
    world.time += 5
    assert lines(metrics, "modelramp_registry_staleness_seconds{")[0].endswith(" 5.0")
    await registry.search()
    world.registry_up = False
    world.time += 7
    with pytest.raises(RegistryError):
        await registry.search()
    assert lines(metrics, "modelramp_registry_staleness_seconds{")[0].endswith(" 7.0")
    assert lines(metrics, "modelramp_registry_errors_total{") == [
        'modelramp_registry_errors_total{registry="default"} 1.0'
    ]
    assert await registry.version("digits", 1) is not None
    assert lines(metrics, "modelramp_registry_staleness_seconds{")[0].endswith(" 0.0")


async def test_tags_are_written_through_the_registry_that_is_measured(metrics: Metrics) -> None:
    world = SimulatedWorld(SPEC)
    registry = metrics.measured("default", world, world)
    await registry.set_tags("digits", 1, {"state": "stable"})
    assert await registry.marked("state") == {("digits", 1): {"state": "stable"}}
    world.registry_writable = False
    with pytest.raises(RegistryError):
        await registry.set_tags("digits", 1, {"state": None})
    assert lines(metrics, "modelramp_registry_errors_total{")[0].endswith(" 1.0")
    metrics.tagged("default", "failed")
    assert lines(metrics, "modelramp_registry_tag_writes_total{") == [
        'modelramp_registry_tag_writes_total{outcome="failed",registry="default"} 1.0'
    ]


@pytest.mark.parametrize(
    ("method", "path", "content_type", "what"),
    [
        (
            "PUT",
            "/apis/modelramp.dev/v1alpha1/namespaces/a/modeldeployments/b/status",
            "",
            "update modeldeployments/status",
        ),
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/b/scale", MERGE_PATCH, "patch deployments/scale"),
        ("PATCH", "/api/v1/namespaces/a/services/b", APPLY_PATCH, "apply services"),
        ("POST", "/api/v1/namespaces/a/events", "", "create events"),
        ("DELETE", "/api/v1/namespaces/a/services/b", "", "delete services"),
    ],
)
def test_a_write_is_counted_by_verb_and_resource(method: str, path: str, content_type: str, what: str) -> None:
    assert " ".join(written(method, path, content_type)) == what


async def test_every_decision_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "modelramp.edge.logs")
    world = SimulatedWorld(SPEC)
    operator = Operator(world, [DecisionLog()])
    await run(world, operator, 10)
    world.aliases["prod"] = 2
    await run(world, operator, 100)
    told = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    promoted = [line for line in told if line["reason"] == "Promoted"]
    assert [(line["namespace"], line["mdep"], line["phase"]) for line in promoted] == [("shop", "digits", "Stable")] * 2
    assert promoted[1]["revision"] == world.status["stable"]["revision"] != promoted[0]["revision"]
    assert [line["reason"] for line in told].count("Holding") == 2, "once per step, not once per pass"
    assert TextFormatter().format(caplog.records[-1]).count("shop/digits: ") == 1
    before = len(caplog.records)
    await run(world, operator, 5)
    assert len(caplog.records) == before
