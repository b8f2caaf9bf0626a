"""The operator killed once in each phase of a rollout: the same history, the same objects, no failed request."""

import pytest

from examples.digits import stage as stages
from examples.digits.kube import wait
from examples.digits.names import OBJECT
from examples.digits.story import serves
from modelramp.api.status import Phase, Status
from tests.e2e.scene import NAME, READY, Scene, operator_pods

pytestmark = pytest.mark.kills
KILLED = READY + 60  # a new operator has to start, and to wait for the Lease


def kill_operator(scene: Scene) -> None:
    """No time to end: SIGKILL."""
    for pod in operator_pods(scene.kube):
        scene.kube.core.delete_namespaced_pod(pod.metadata.name, stages.SYSTEM, grace_period_seconds=0)


def kill_in(scene: Scene, phase: Phase, version: int) -> None:
    what = f"version {version} in {phase.value}"
    scene.world.wait(what, KILLED, lambda status: in_phase(status, phase, version))
    kill_operator(scene)


def in_phase(status: Status, phase: Phase, version: int) -> bool:
    return status.phase is phase and status.candidate is not None and status.candidate.version == version


def test_a_promotion_survives_a_kill_in_every_phase(scene: Scene) -> None:
    scene.move(1)
    scene.apply(replicas=1)
    kill_in(scene, Phase.PENDING, 1)
    scene.world.wait("version 1 serves", KILLED, serves(1))
    with scene.clients():
        scene.move(2)
        for phase in (Phase.GATING, Phase.RAMPING, Phase.PROMOTING):
            kill_in(scene, phase, 2)
        scene.world.wait("version 2 promoted", KILLED, serves(2))
        kill_operator(scene)
        wait("what is left over to go", KILLED, lambda: leftovers(scene) == 1)
    assert scene.history() == [
        ("CandidateStarted", 1),
        ("Promoted", 1),
        ("CandidateStarted", 2),
        ("Promoted", 2),
    ]


def test_an_abort_survives_a_kill(scene: Scene) -> None:
    with scene.clients():
        scene.move(3)
        kill_in(scene, Phase.RAMPING, 3)
        scene.world.wait("version 3 aborting", KILLED, lambda s: any(e.action == "Aborting" for e in s.history))
        kill_operator(scene)
        scene.world.wait("version 3 rejected", KILLED, lambda s: bool(s.rejected) and s.candidate is None)
        wait("what is left over to go", KILLED, lambda: leftovers(scene) == 1)
    assert scene.history()[4:] == [("CandidateStarted", 3), ("Aborting", 3), ("Rejected", 3)]
    assert [r.version for r in scene.status().rejected] == [3]
    services = scene.kube.core.list_namespaced_service(scene.namespace, label_selector=NAME).items
    assert OBJECT in {service.metadata.name for service in services}
    assert len(services) == 2


def leftovers(scene: Scene) -> int:
    """Revisions of which there are pods."""
    pods = scene.kube.core.list_namespaced_pod(scene.namespace, label_selector=NAME).items
    return len({pod.metadata.labels["modelramp.dev/revision"] for pod in pods})
