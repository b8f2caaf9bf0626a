"""What a promotion keeps, what an orphaned object's return keeps, and what kept connections get: under traffic."""

import time
from datetime import datetime

import pytest

from examples.digits.kube import wait
from examples.digits.names import OBJECT
from examples.digits.story import POLL, serves
from modelramp.api.status import Phase, Status
from tests.e2e.scene import RATE, READY, Scene, rejected

pytestmark = pytest.mark.steady
LATENCY = 2.0  # seconds from what the poll has seen to the candidate's Deployment
QUIET = 15.0  # seconds in which an adopted object must change nothing


def created(scene: Scene, revision: str) -> datetime:
    deployment = scene.kube.apps.read_namespaced_deployment(f"{OBJECT}-{revision}", scene.namespace)
    moment: datetime = deployment.metadata.creation_timestamp
    return moment


def test_a_promotion_moves_only_traffic(scene: Scene) -> None:
    scene.begin(1, replicas=2)
    with scene.clients():
        begun = len(scene.world.changes)
        scene.move(2)
        moved = time.time()
        full = scene.world.wait("100 % for version 2", READY, everything_relayed, since=begun)
        assert full.candidate is not None
        revision = full.candidate.revision
        before = scene.pods(revision)
        promoted = scene.world.wait("version 2 promoted", READY, serves(2))
        wait("the former pods to go", 60, lambda: not scene.pods(former(scene, 1)))
        assert scene.pods(revision) == before, "the candidate's pods are the ones that serve"
        assert len(before) == 2
    # creationTimestamp has whole seconds, rounded down
    assert created(scene, revision).timestamp() - moved <= POLL + LATENCY
    assert promoted.stable is not None
    since = promoted.stable.since.timestamp()
    later = [answer for answer in scene.since(since) if not answer.net]
    assert later, "kept connections went on"
    assert {answer.version for answer in later} == {2}


def test_an_orphaned_object_comes_back_to_the_same_pods_and_the_same_rejections(scene: Scene) -> None:
    stable = scene.status().stable
    assert stable is not None
    assert stable.version == 2
    with scene.clients():
        scene.move(3)
        scene.world.wait("version 3 rejected", READY, rejected(3))
        pods, entry = scene.pods(stable.revision), scene.status().rejected[-1]
        scene.orphan()
        begun = len(scene.world.changes)
        scene.apply(replicas=2)
        back = scene.world.wait(
            "the object adopted", READY, lambda s: serves(2)(s) and s.reason == "Rejected", since=begun
        )
        assert back.stable is not None
        assert back.stable.revision == stable.revision
        assert [(r.version, r.revision) for r in back.rejected] == [(3, entry.revision)]
        begun = len(scene.world.answers)
        wait("answers meanwhile", 60, lambda: len(scene.world.answers) > begun + QUIET * RATE)
        assert scene.pods(stable.revision) == pods, "the same pods serve on"
        assert not scene.pods(entry.revision), "the rejected version is not tried again"


def former(scene: Scene, version: int) -> str:
    return next(e.revision for e in scene.status().history if (e.action, e.version) == ("Promoted", version))


def everything_relayed(status: Status) -> bool:
    """All requests go to the candidate, and every stable pod has said so."""
    return status.phase is Phase.PROMOTING and status.step is not None and status.step.in_force_since is not None
