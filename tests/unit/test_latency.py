"""Latency beside errors: what is slow, from whose histograms, and what a rollout makes of it."""

import dataclasses
import json
import math
from functools import partial
from typing import Any

import pytest

from modelramp.api.spec import Latency
from modelramp.domain.counts import Counts, Unevenness
from modelramp.domain.latency import per_bucket, quantile, shown, slow, threshold
from modelramp.domain.world import PodMetrics
from tests.unit import simulation
from tests.unit.simulation import SPEC, Behaviour, Operator, SimPod, SimulatedWorld, run

INF = math.inf
until = partial(simulation.until, seconds=400)


def spec(latency: dict[str, Any] | None, **rollout: Any) -> dict[str, Any]:
    objectives = {} if latency is None else {"latency": latency}
    return {**SPEC, "rollout": {**SPEC["rollout"], "analysis": {"objectives": objectives}, **rollout}}


async def serving(
    latency: dict[str, Any] | None, service: float, *, rps: float = 100.0, before: float = 60.0
) -> tuple[SimulatedWorld, Operator]:
    """Version 1 has served for a while, 20 ms an answer; version 2, `service` seconds an answer, is asked for."""
    world = SimulatedWorld(spec(latency), rps=rps)
    operator = Operator(world)
    await run(world, operator, before)
    world.behaviours[2] = Behaviour(service=service)
    world.aliases["prod"] = 2
    return world, operator


def evidence(status: dict[str, Any], metric: str = "latency") -> dict[str, Any]:
    return next((e for e in status.get("evidence", []) if e["metric"] == metric), {})


def promoted(status: dict[str, Any]) -> bool:
    return bool(status["stable"]["version"] == 2)


# Through the whole engine


async def test_a_slower_version_is_taken_back_with_the_numbers() -> None:
    world, operator = await serving({}, service=0.06)
    status = await until(world, operator, lambda s: bool(s.get("rejected")))
    rejected = status["rejected"][0]
    assert rejected["reason"] == "AnalysisFailed"
    assert rejected["message"].startswith("latency: candidate took over 40 ms in ")
    assert "(100.0 %), stable 0 of " in rejected["message"]
    assert "confidence 97.5 %" in rejected["message"]
    assert status["stable"]["version"] == 1


async def test_a_version_as_fast_is_promoted_and_the_event_names_both_metrics() -> None:
    world, operator = await serving({}, service=0.02)
    await until(world, operator, promoted)
    told = next(event.message for event in world.events if event.reason == "Promoting")
    assert told.startswith("errors: candidate failed 0 of ")
    assert "; latency: candidate took over 40 ms in 0 of " in told


async def test_a_version_within_the_margin_is_promoted() -> None:
    world, operator = await serving({}, service=0.03)
    await until(world, operator, promoted)


async def test_a_wider_margin_lets_a_slower_version_through() -> None:
    world, operator = await serving({"margin": 4}, service=0.06)
    await until(world, operator, promoted)


async def test_without_the_objective_slower_is_nobodys_business_and_alpha_stays_whole() -> None:
    world, operator = await serving(None, service=1.0)
    status = await until(world, operator, lambda s: s["reason"] == "Holding" and "of" in s["message"])
    assert [e["metric"] for e in status["evidence"]] == ["errors"]
    assert status["message"].startswith("10 %: candidate failed 0 of ")
    await until(world, operator, promoted)
    told = next(event.message for event in world.events if event.reason == "Promoting")
    assert told.startswith("candidate failed") and told.endswith("confidence 95 %")


async def test_with_it_each_metric_has_half_of_alpha() -> None:
    world, operator = await serving({}, service=0.02)
    status = await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)
    needed = evidence(status, "errors")["requests"] + evidence(status, "errors")["requestsNeeded"]
    assert needed > 357, "1 % with the whole of alpha"
    assert evidence(status)["requestsNeeded"] is not None and evidence(status)["secondsNeeded"] is not None


async def test_what_is_slow_is_fixed_before_the_first_count_and_stays() -> None:
    world, operator = await serving({}, service=0.02)
    status = await until(world, operator, lambda s: bool(evidence(s)))
    first = evidence(status)
    assert (first["thresholdSeconds"], first["requests"]) == (0.04, 0)
    assert first["message"].startswith("slow is over 40 ms from now on: 1.5 times stable's p95 of 24.6 ms")
    world.behaviours[1] = Behaviour(service=0.08)
    await run(world, operator, 20)
    assert evidence(world.status)["thresholdSeconds"] == 0.04
    assert evidence(world.status)["stableBad"] > 0


async def test_trouble_that_both_sides_share_accuses_nobody() -> None:
    world, operator = await serving({}, service=0.02)
    await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)
    world.behaviours[1] = world.behaviours[2] = Behaviour(service=0.09)
    await until(world, operator, promoted)


async def test_stable_without_a_past_is_measured_in_the_first_looks() -> None:
    world, operator = await serving({}, service=0.02, rps=10, before=6)
    status = await until(world, operator, lambda s: evidence(s).get("verdict") == "Inconclusive")
    assert evidence(status)["message"].startswith("what is slow is not known yet: stable's p95 needs 200 service times")
    status = await until(world, operator, lambda s: "thresholdSeconds" in evidence(s))
    assert evidence(status)["requests"] == 0
    status = await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)
    counted = evidence(status)["requests"] + evidence(status)["stableRequests"]
    assert counted <= 6 * world.rps, "what was answered before the baseline is not counted"
    await until(world, operator, promoted)


async def test_a_metric_without_data_holds_whatever_the_other_says(monkeypatch: pytest.MonkeyPatch) -> None:
    world, operator = await serving({}, service=0.02)
    await until(world, operator, lambda s: evidence(s).get("verdict") == "Pass")
    honest = SimulatedWorld._metrics
    answered = {pod.name: dict(pod.splits[pod.salt]) for pod in world.pods.values() if pod.splits}

    def refused(self: SimulatedWorld, pod: SimPod) -> PodMetrics:
        metrics = honest(self, pod)
        before = answered[pod.name]["c_ok"]
        splits = {
            salt: dataclasses.replace(c, candidate_ok=before, candidate_error=c.candidate_ok - before) if salt else c
            for salt, c in metrics.splits.items()
        }
        return dataclasses.replace(metrics, splits=splits)

    monkeypatch.setattr(SimulatedWorld, "_metrics", refused)
    await run(world, operator, 60)
    assert evidence(world.status)["verdict"] == "Pass"
    assert world.status["reason"] == "NoEvidence"
    assert world.status["message"].startswith("errors: no data")


async def test_pods_that_tell_no_service_times_never_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimPod, "histogram", lambda *_: {})
    world, operator = await serving({}, service=0.02)
    await run(world, operator, 300)
    assert (world.status["phase"], world.status["reason"]) == ("Ramping", "AwaitingVerdict")
    assert evidence(world.status)["verdict"] == "Inconclusive"
    assert "; latency: what is slow is not known yet" in world.status["message"]


async def test_a_stable_slower_than_the_histograms_reach_is_said_and_never_passes() -> None:
    world = SimulatedWorld(spec({}))
    operator = Operator(world)
    world.behaviours[1] = world.behaviours[2] = Behaviour(service=0.09)
    await run(world, operator, 60)
    world.aliases["prod"] = 2
    await run(world, operator, 200)
    assert (
        evidence(world.status)["message"] == "stable's p95 times 1.5 is beyond the pods' histograms: it can't be judged"
    )
    assert world.status["reason"] == "AwaitingVerdict"


async def test_pods_that_cannot_be_asked_hold_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    world, operator = await serving({}, service=0.02)
    await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)

    async def nobody(*_: Any) -> dict[str, PodMetrics]:
        return {}

    monkeypatch.setattr(world, "read", nobody)
    await run(world, operator, 60)
    assert world.status["reason"] == "NoEvidence"
    assert "latency: no data" in world.status["message"] and "errors: no data" in world.status["message"]


async def test_a_restarted_pod_counts_from_nothing_and_one_born_later_from_its_birth() -> None:
    world, operator = await serving({}, service=0.02)
    await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)
    before = evidence(world.status)["requests"] + evidence(world.status)["stableRequests"]
    pod = next(p for p in world.pods.values() if p.version == 1)
    pod.born, pod.splits, pod.service = world.time - 3, {}, {}
    await run(world, operator, 10)
    after = evidence(world.status)["requests"] + evidence(world.status)["stableRequests"]
    assert 5 * world.rps < after - before < 12 * world.rps
    assert not world.status["rejected"]


async def test_latency_asked_for_in_mid_rollout_is_waited_for() -> None:
    world, operator = await serving(None, service=0.06)
    await until(world, operator, lambda s: evidence(s, "errors").get("verdict") == "Pass")
    world.edit(rollout=spec({})["rollout"])
    status = await until(world, operator, lambda s: bool(s.get("rejected")))
    assert "took over 40 ms" in status["rejected"][0]["message"]


async def test_another_margin_in_mid_rollout_begins_afresh() -> None:
    world, operator = await serving({}, service=0.02)
    await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)
    world.edit(rollout=spec({"margin": 3})["rollout"])
    status = await until(world, operator, lambda s: evidence(s)["thresholdSeconds"] == 0.1)
    assert evidence(status)["requests"] == 0


async def test_a_memory_of_another_release_is_begun_afresh() -> None:
    world, operator = await serving({}, service=0.02)
    status = await until(world, operator, lambda s: evidence(s).get("requests", 0) > 0)
    state = json.loads(evidence(status)["state"])
    del state["noted"]["squares"]
    evidence(status)["state"] = json.dumps(state)
    await run(world, operator, 6)
    assert evidence(world.status)["requests"] == 0
    await until(world, operator, promoted)


# What is slow


HISTOGRAM = {0.01: 0, 0.016: 50, 0.025: 90, 0.04: 100, INF: 100}


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        pytest.param(0.5, 0.016, id="at a bound"),
        pytest.param(0.7, 0.0205, id="half way between two"),
        pytest.param(0.95, 0.0325, id="in a later bucket"),
    ],
)
def test_a_quantile_is_interpolated_in_its_bucket(wanted: float, seconds: float) -> None:
    assert quantile(per_bucket([HISTOGRAM]), wanted) == pytest.approx(seconds)


def test_a_quantile_beyond_the_last_bound_is_infinite() -> None:
    assert quantile(per_bucket([{0.1: 5, INF: 100}]), 0.5) == INF
    assert quantile({}, 0.5) == INF


def test_pods_with_other_bounds_are_added_up() -> None:
    assert per_bucket([{0.1: 5, INF: 6}, {0.2: 4, INF: 4}]) == {0.1: 5, 0.2: 4, INF: 1}


def test_the_threshold_is_the_first_bound_at_or_above_the_margin() -> None:
    own = per_bucket([{0.01: 100, 0.016: 100, 0.025: 100, INF: 100}])
    assert quantile(own, 0.95) == pytest.approx(0.0095)
    assert threshold(own, Latency()) == 0.016
    assert threshold(own, Latency(margin=0.016 / quantile(own, 0.95))) == 0.016
    assert threshold(own, Latency(margin=2)) == 0.025
    assert threshold(own, Latency(margin=3)) is None


def test_slow_is_what_lies_above_the_bound_or_the_next_one_that_the_pod_has() -> None:
    assert slow(HISTOGRAM, 0.016) == Counts(100, 50)
    assert slow(HISTOGRAM, 0.02) == Counts(100, 10)
    assert slow(HISTOGRAM, 99.0) == Counts(100, 0)
    assert slow({}, 0.016) == Counts(0, 0)


def test_unevenness_is_one_for_even_looks_whatever_their_size_and_large_for_bursts() -> None:
    even = [Counts(100, 10), Counts(200, 20), Counts(0, 0), Counts(50, 5)]
    burst = [Counts(100, 0)] * 9 + [Counts(100, 100)]
    for looks, expected in ((even, 1.0), (burst, 100.0)):
        uneven, total = Unevenness(), Counts(0, 0)
        for each in looks:
            uneven, total = uneven.add(each), total + each
        assert uneven.index(total) == pytest.approx(expected)
    assert dataclasses.astuple(Unevenness().add(Counts(0, 0))) == (0, 0.0)


@pytest.mark.parametrize(("seconds", "text"), [(0.0016, "1.6 ms"), (0.063, "63 ms"), (0.63, "630 ms"), (2.5, "2.5 s")])
def test_seconds_are_shown_as_people_write_them(seconds: float, text: str) -> None:
    assert shown(seconds) == text


async def test_pods_that_cannot_be_asked_are_an_error_not_a_verdict() -> None:
    world, operator = await serving({}, service=0.02)
    await until(world, operator, lambda s: s["phase"] == "Ramping")
    world.deaf = True
    status = await until(world, operator, lambda s: bool(evidence(s)))
    assert evidence(status)["verdict"] == "Error"
    world.deaf = False
    await until(world, operator, promoted)
