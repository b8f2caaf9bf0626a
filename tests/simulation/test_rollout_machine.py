"""A state machine over the whole engine: random people, pods, registries, deaths; what must never happen never does."""

import asyncio
import gc
import json
import os
import resource
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import Phase as Generation
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from modelramp.api.status import Phase
from modelramp.domain.findings import Inference, Tensor
from modelramp.domain.world import Fault
from modelramp.engine.sources import SourceConfig, Sources
from modelramp.ports import Kind
from tests.unit.gateway_world import GATEWAY_SPEC, ROUTE, GatewayWorld
from tests.unit.simulation import KEY, SPEC, Behaviour, Killed, Operator, SimulatedWorld
from tests.unit.test_queries import TEMPLATE, Server

SERVICE = Kind("v1", "Service")
IN_CI = 10_000
STEPS = int(os.environ.get("MODELRAMP_STEPS", IN_CI))  # `make soak` takes a million
AT_ONCE = min(STEPS, IN_CI)
STEPS_IN_A_ROW = 30
REACHED: Counter[tuple[str, str]] = Counter()  # phase and reason after each pass
ROWS = {
    *("Starting", "Serving", "Splitting", "Shadowing", "Holding", "Suspended", "Unschedulable", "Rejected"),
    *("AliasNotFound", "RegistryUnavailable", "PodUnreachable", "Superseded", "RouteNotAccepted"),
}
ROLLOUT = {**SPEC["rollout"], "analysis": {"objectives": {"latency": {}}}}
BEHAVIOURS = st.sampled_from(
    [
        Behaviour(),
        Behaviour(bad_rate=0.1),
        Behaviour(bad_rate=0.5),
        Behaviour(service=0.09),
        Behaviour(classes={"0": 0.5, "1": 0.5}),
        Behaviour(classes={"1": 1.0}),
        Behaviour(disagreement=0.3),
        Behaviour(ready_after=float("inf")),
        Behaviour(fault=Fault("LoadFailed", "does not load", models_own=True)),
        Behaviour(fault=Fault("Unschedulable", "no node fits", models_own=False)),
        Behaviour(example={"inputs": [[0.0]]}, answer=Inference(500, {"error": "it raised"}, 0.01)),
        Behaviour(inputs=(Tensor("renamed", "FP64", (-1, 64)), Tensor("new", "FP64", (-1,)))),
    ]
)

SHADOWS = st.sampled_from([None, {}, {"maxDisagreement": 0.05}])
QUERIES = [{"source": "main", "query": "p99-latency", "max": 0.5, "failures": 2, "interval": "10s"}]
PAUSES = st.sampled_from([None, {"duration": "5s"}, {"approval": "release"}])


class Watched(SimulatedWorld):
    """Objects to writes that must never be made, on what had been read when they were made."""

    async def annotate_pod(self, key: Any, annotation: str, value: str) -> None:
        split = json.loads(value)
        shadow = split.get("shadow")
        assert not (shadow and split["weight"]), "users' answers in a shadow"
        if split["weight"] or shadow:
            self._may_have_weight(split["revision"])
        await super().annotate_pod(key, annotation, value)

    def _may_have_weight(self, receiver: str) -> None:
        assert any(p.revision == receiver for p in self.pods.values()), "weight for a revision without pods"
        rejected = [r["revision"] for r in self.status.get("rejected", [])]
        assert receiver not in rejected, "weight for a rejected revision"
        candidate = self.status.get("candidate")
        if candidate and candidate["revision"] == receiver:
            states = [gate["state"] for gate in candidate["gates"]]
            passed = bool(states) and set(states) == {"Passed"}
            wanted = candidate["direct"] or candidate["obeyed"]  # by a person
            assert passed or wanted, "weight behind a gate that is shut"

    async def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        if Kind(body["apiVersion"], body["kind"]) == SERVICE and body["metadata"]["name"] == KEY.name:
            selected = body["spec"]["selector"]["modelramp.dev/revision"]
            assert any(self.ready(p) for p in self.pods.values() if p.revision == selected) or self._selected() in (
                selected,
                None,
            ), "the main Service moves to a revision that is not ready"
        return await super().apply(body)

    def _selected(self) -> str | None:
        service = self.children.get((SERVICE, KEY.name))
        return service["spec"]["selector"]["modelramp.dev/revision"] if service else None


class WatchedGateway(Watched, GatewayWorld):
    async def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["kind"] == ROUTE.kind:
            stable = self.status.get("stable", {}).get("revision")
            for backend in body["spec"]["rules"][0]["backendRefs"]:
                revision = backend["name"].rpartition("-")[2]
                if backend["weight"] and revision != stable:
                    self._may_have_weight(revision)
        return await super().apply(body)


def shadowed(rollout: dict[str, Any], shadow: dict[str, Any] | None) -> dict[str, Any]:
    """The rollout with a shadow before all else, and a bound perhaps."""
    if shadow is None:
        return rollout
    return {**rollout, "shadow": shadow, "steps": [{"shadow": 20, "hold": "5s"}, *rollout["steps"]]}


class Rollouts(RuleBasedStateMachine):
    """Everybody does as they like; afterwards the invariants hold."""

    @initialize(
        pause=PAUSES,
        shadow=SHADOWS,
        gateway=st.sampled_from([False, False, True]),
        queries=st.sampled_from([[], [], QUERIES]),
    )
    def start(self, pause: Any, shadow: dict[str, Any] | None, gateway: bool, queries: list[dict[str, Any]]) -> None:
        self.loop, self.queries = asyncio.new_event_loop(), queries
        steps = [*SPEC["rollout"]["steps"], *([{"pause": pause}] if pause else [])]
        analysis = {**ROLLOUT["analysis"], "queries": queries}
        rollout = shadowed({**ROLLOUT, "steps": steps, "analysis": analysis}, None if gateway else shadow)
        self.gateway = WatchedGateway({**GATEWAY_SPEC, "rollout": rollout}) if gateway else None
        self.world = self.gateway or Watched({**SPEC, "rollout": rollout})
        self.prometheus = Server()
        self._start_operator()
        self._passes(25)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def _start_operator(self) -> None:
        configs = {"main": SourceConfig({"p99-latency": TEMPLATE})}
        self.operator = Operator(self.world, sources=Sources(configs, {"main": self.prometheus}))

    def _passes(self, count: int) -> None:
        for _ in range(count):
            try:
                self.loop.run_until_complete(self.operator.step_if_due())
            except Killed:
                self.world.kill_before = self.world.kill_after = None
                self._start_operator()
            status = self.world.status
            REACHED[status.get("phase", ""), status.get("reason", "")] += 1
            self.world.tick(0.5)

    @rule(version=st.integers(1, 4))
    def move_alias(self, version: int) -> None:
        self.world.aliases["prod"] = version

    @rule(
        version=st.integers(1, 4),
        behaviour=BEHAVIOURS,
        count=st.sampled_from([3, 10, 40, 80]),
        reachable=st.sampled_from([True, True, True, False]),
        rps=st.sampled_from([100.0, 100.0, 100.0, 1.0]),
    )
    def release(self, version: int, behaviour: Behaviour, count: int, reachable: bool, rps: float) -> None:
        """What people mostly do: nearly everything is well, and another version is asked for."""
        self.world.registry_up, self.world.pods_reachable, self.world.rps = True, reachable, rps
        if self.world.owner and self.world.owner["spec"].get("suspend"):
            self.world.edit(suspend=False)
        self.change_behaviour(version, behaviour)
        self.world.aliases["prod"] = version
        self._passes(count)

    @rule()
    def delete_alias(self) -> None:
        self.world.aliases.pop("prod", None)

    @rule(version=st.integers(2, 4), behaviour=BEHAVIOURS)
    def change_behaviour(self, version: int, behaviour: Behaviour) -> None:
        self.world.behaviours[version] = behaviour

    @rule(count=st.sampled_from([1, 3, 10, 40]))
    def work(self, count: int) -> None:
        self._passes(count)

    @rule(seconds=st.sampled_from([1.0, 30.0, 200.0]))
    def operator_is_away(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(index=st.integers(0, 4), before=st.booleans())
    def kill_at_a_write(self, index: int, before: bool) -> None:
        setattr(self.world, "kill_before" if before else "kill_after", len(self.world.writes) + index)
        self._passes(5)

    @rule()
    def restart(self) -> None:
        self._start_operator()

    @rule(answer=st.sampled_from([0.2, 0.2, 0.9, "no route to host"]))
    def prometheus_answers(self, answer: float | str) -> None:
        self.prometheus.answer = answer

    @rule(index=st.integers(0, 3))
    def conflict(self, index: int) -> None:
        self.world.conflict_at = len(self.world.writes) + index

    @rule(up=st.booleans())
    def registry(self, up: bool) -> None:
        self.world.registry_up = up

    @rule(reachable=st.booleans())
    def pods_answer_the_operator(self, reachable: bool) -> None:
        self.world.pods_reachable = reachable

    @precondition(lambda self: self.gateway)
    @rule(version=st.integers(2, 4), weight=st.integers(0, 100), refuses=st.booleans())
    def others_touch_the_route(self, version: int, weight: int, refuses: bool) -> None:
        """In the middle of a rollout, mostly."""
        self.release(version, Behaviour(), 10, reachable=True, rps=100.0)
        if refuses:
            self.gateway.refusal = {"Accepted": "no such listener"}
            self._passes(5)
            self.gateway.refusal = {}
        else:
            self.gateway.meddle([weight] * len(self.gateway.shares()))

    @rule(
        verb=st.sampled_from(["abort", "pause", "resume", "approve", "promote", "retry", "rollback"]),
        nonce=st.integers(0, 9),
    )
    def command(self, verb: str, nonce: int) -> None:
        status = self.world.status
        known = status.get("former", []) if verb == "rollback" else status.get("rejected", [])
        target = status.get("candidate") or next(iter(known), None)
        if target:
            self.world.command(verb, f"{target['revision']}#{nonce}")

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        self.world.edit(suspend=suspend)

    @rule(
        weights=st.lists(st.integers(1, 100), min_size=1, max_size=3, unique=True),
        latency=st.booleans(),
        pause=PAUSES,
        shadow=SHADOWS,
        more=st.fixed_dictionaries(
            {},
            optional={
                "onFailure": st.just("Pause"),
                "analysis": st.just({"maxDuration": "20s"}),
                "rollbackWindow": st.just("0s"),
                "progressDeadline": st.just("10s"),
            },
        ),
    )
    def edit_rollout(self, weights: list[int], latency: bool, pause: Any, shadow: Any, more: Any) -> None:
        steps: list[dict[str, Any]] = [{"weight": w, "hold": "5s"} for w in sorted(weights)]
        if pause:
            steps.insert(1, {"pause": pause})
        objectives = ROLLOUT["analysis"] if latency else {}
        analysis = {**objectives, **more.get("analysis", {}), "queries": self.queries}
        edited = {**SPEC["rollout"], "steps": steps, **more, "analysis": analysis}
        self.world.edit(rollout=shadowed(edited, None if self.gateway else shadow))

    @precondition(lambda self: self.world.status.get("phase") == "Stable")
    @rule()
    def lose_status(self) -> None:
        self.world.lose_status()

    @rule()
    def pod_dies(self) -> None:
        if self.world.pods:
            del self.world.pods[sorted(self.world.pods)[0]]
            self.world.tick(0.1)

    @invariant()
    def spec_is_never_written(self) -> None:
        assert not any(write.startswith("spec") for write in self.world.writes)

    @invariant()
    def what_serves_keeps_its_deployment(self) -> None:
        selected = self.world._selected()
        if selected:
            assert (Kind("apps/v1", "Deployment"), f"digits-{selected}") in self.world.children

    @rule()
    def a_quiet_world_comes_to_rest(self) -> None:
        if not self.world.registry_up or self.world.kill_before or self.world.kill_after:
            return
        if self._settled():
            self._passes(30)
            if self._settled():
                before = len(self.world.writes)
                self._passes(4)
                assert self.world.writes[before:] == []

    def _settled(self) -> bool:
        status = self.world.status
        at_rest = status.get("phase") == "Stable" and status.get("reason") in ("Serving", "Rejected", "AliasNotFound")
        return at_rest and not status.get("draining") and not status.get("guard")


GENERATED = settings(
    max_examples=AT_ONCE // STEPS_IN_A_ROW,
    stateful_step_count=STEPS_IN_A_ROW,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Generation.generate],
)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(STEPS // AT_ONCE))
def test_what_must_never_happen_never_does(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each number is a seed: the same steps in each run, so another result means another code. What hypothesis
    remembers of its steps is let go after each number, so that a million steps need no more memory than these."""
    begun = time.monotonic()
    run_state_machine_as_test(seed(number)(Rollouts), settings=GENERATED)
    gc.collect()
    with capsys.disabled():
        if STEPS > IN_CI:
            taken, peak = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(
                f" {(number + 1) * AT_ONCE} of {STEPS} steps, {taken:.0f} s for these, {peak} MiB at most", flush=True
            )


def test_the_machine_has_been_everywhere() -> None:
    """Runs after it, and counts: all phases, and the reasons that most rows have. The others have unit tests."""
    assert {phase for phase, _ in REACHED if phase} == {phase.value for phase in Phase}
    reasons = Counter[str]()
    for (_, reason), passes in REACHED.items():
        reasons[reason] += passes
    assert {row for row in ROWS if not reasons[row]} == set()
