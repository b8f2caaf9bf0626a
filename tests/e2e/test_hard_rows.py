"""The hard rows of the rollout's table, one after the other on one object, under traffic: no request fails in any.

Each begins with version 1 serving and nothing under way; the last ends with version 2 promoted.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from examples.digits import stage as stages
from examples.digits.kube import Body, documents, wait
from examples.digits.names import NAMESPACE, OBJECT
from examples.digits.stage import Stage
from examples.digits.story import serves
from modelramp.api.status import Phase, Status
from tests.e2e.scene import NAME, OWN_PORT, QUICK, READY, UNSTEADY, Scene, rejected
from tests.e2e.test_autoscaled import BUSY

LONG: Body = {**QUICK, "steps": [{"weight": 50, "hold": "10m"}]}
# 5000 percent of 10m: nothing that these clients do asks for more pods
CALM: Body = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 5000}},
}
CLOSED_PORT = 5999


@pytest.fixture(scope="module", autouse=True)
def _a_registry_of_its_own(stage: Stage, scene: Scene) -> None:
    lead_to(stage, "http")
    scene.registry = UNSTEADY


def mlflow_service() -> Body:
    found = documents(stages.HERE / "mlflow.yaml")
    return next(body for body in found if body["kind"] == "Service")


def lead_to(stage: Stage, target: str | int) -> None:
    """Where the unsteady registry's port leads."""
    service = mlflow_service()
    service["spec"]["ports"].append({"name": UNSTEADY, "port": OWN_PORT, "targetPort": target})
    stage.kube.apply([service], NAMESPACE)


def ramping(version: int) -> Callable[[Status], bool]:
    """Its first weight is in force."""

    def check(status: Status) -> bool:
        mine = status.candidate is not None and status.candidate.version == version
        return mine and status.phase is Phase.RAMPING and bool(status.step and status.step.in_force_since)

    return check


def back_to(version: int) -> Callable[[Status], bool]:
    return lambda status: serves(version)(status) and status.reason == "Serving"


def in_hand(version: int) -> Callable[[Status], bool]:
    return lambda status: status.candidate is not None and status.candidate.version == version


def stable(scene: Scene) -> str:
    found = scene.status().stable
    assert found is not None
    return found.revision


def candidate(scene: Scene) -> str:
    found = scene.status().candidate
    assert found is not None
    return found.revision


def replicas(scene: Scene, revision: str) -> int:
    deployment = scene.kube.apps.read_namespaced_deployment(f"{OBJECT}-{revision}", scene.namespace)
    return int(deployment.status.ready_replicas or 0)


def test_an_alias_that_flaps_leaves_nothing_behind(scene: Scene) -> None:
    scene.begin(1, LONG, replicas=2)
    with scene.clients():
        for _ in range(2):
            scene.move(2)
            scene.world.wait("version 2 in hand", READY, in_hand(2))
            scene.move(1)
            scene.world.wait("version 1 alone", READY, back_to(1))
        scene.move(2)
        scene.world.wait("version 2 at 50 %", READY, ramping(2))
        scene.move(1)
        scene.world.wait("version 1 alone", READY, back_to(1))
        revision = stable(scene)
        wait("the others' pods to go", 90, lambda: scene.all_pods() == scene.pods(revision))
    assert scene.status().rejected == []
    assert [action for action, _ in scene.history()].count("Promoted") == 1


def test_evicted_pods_of_both_sides(scene: Scene) -> None:
    with scene.clients():
        scene.apply(LONG, replicas=2)
        scene.move(2)
        scene.world.wait("version 2 at 50 %", READY, ramping(2))
        theirs, ours = candidate(scene), stable(scene)
        before = scene.pods(theirs) | scene.pods(ours)
        evict_all(scene, theirs)
        wait("another of the candidate's", READY, lambda: replaced(scene, theirs, before, 1))
        evict_all(scene, ours)
        wait("others of stable's", READY, lambda: replaced(scene, ours, before, 2))
        scene.world.wait("the weight in force again", READY, ramping(2))
        shares = len(scene.world.answers)
        wait("answers of both sides", 60, lambda: {a.version for a in scene.world.answers[shares:]} == {1, 2})
        scene.move(1)
        scene.world.wait("version 1 alone", READY, back_to(1))
    assert scene.status().rejected == [], "an eviction is nobody's fault"


def replaced(scene: Scene, revision: str, before: set[str], size: int) -> bool:
    return replicas(scene, revision) == size and not scene.pods(revision) & before


def evict_all(scene: Scene, revision: str) -> None:
    """As a drain of their node does it: each again and again until its disruption budget allows it."""
    chosen = f"{NAME},modelramp.dev/revision={revision}"
    for pod in scene.kube.core.list_namespaced_pod(scene.namespace, label_selector=chosen).items:
        metadata = client.V1ObjectMeta(name=pod.metadata.name, namespace=scene.namespace)
        eviction = client.V1Eviction(metadata=metadata)
        wait(f"the eviction of {pod.metadata.name}", READY, partial(evicted, scene, eviction), pause=1.0)


def evicted(scene: Scene, eviction: Any) -> bool:
    try:
        scene.kube.core.create_namespaced_pod_eviction(eviction.metadata.name, scene.namespace, eviction)
    except ApiException as error:
        if error.status == 429:
            return False
        raise
    return True


def test_an_abort_at_full_load_just_after_the_autoscaler_went_up(scene: Scene) -> None:
    stages.cluster("up", "--with", "metrics-server")
    with scene.clients():
        scene.apply(LONG, minReplicas=2, maxReplicas=4, metrics=[CALM])
        scene.move(2)
        scene.world.wait("version 2 at 50 %", READY, ramping(2))
        ours, theirs = stable(scene), candidate(scene)
        scene.apply(LONG, minReplicas=2, maxReplicas=4, metrics=[BUSY])
        scene.world.wait("four pods at least", READY + 120, lambda s: bool(s.candidate and s.candidate.floor == 4))
        scene.command("abort", theirs)
        scene.world.wait("version 2 rejected", READY, rejected(2))
        wait("the candidate's pods to go", 90, lambda: not scene.pods(theirs))
        assert replicas(scene, ours) >= 2
        assert scene.revisions_from_now() == {ours}
        scene.apply(QUICK, replicas=2)
    assert [r.reason for r in scene.status().rejected] == ["AbortCommanded"]


def test_the_registry_goes_down_in_the_middle(scene: Scene, stage: Stage) -> None:
    """At 60 % both of the candidate's pods run; a pod that started now would find nothing to load."""
    revision = next(r.revision for r in scene.status().rejected if r.version == 2)
    with scene.clients():
        scene.apply({**QUICK, "steps": [{"weight": 60, "hold": "20s"}]}, replicas=2)
        scene.command("retry", revision)
        scene.world.wait("the rejection lifted", READY, lambda s: all(r.version != 2 for r in s.rejected))
        scene.move(2)
        scene.world.wait("version 2 at its first weight", READY, ramping(2))
        lead_to(stage, CLOSED_PORT)
        try:
            scene.world.wait("the outage seen", READY, unavailable)
            promoted = scene.world.wait("version 2 promoted", READY + 60, serves(2))
            assert unavailable(promoted), "without the registry"
        finally:
            lead_to(stage, "http")
        scene.world.wait("the registry back", READY, lambda s: not unavailable(s))
    assert stable(scene) == revision


def unavailable(status: Status) -> bool:
    return any(condition.type == "RegistryUnavailable" for condition in status.conditions)
