"""A rollout and an abort by the router Gateway, with a real one (Traefik): exact shares, and no request fails."""

import time
from collections.abc import Callable, Iterator

import pytest

from examples.digits import stage as stages
from examples.digits.kube import Body, wait
from examples.digits.names import OBJECT
from examples.digits.stage import Stage
from examples.digits.story import serves
from examples.digits.traffic import read
from modelramp.api.status import Phase, Status
from tests.e2e.scene import READY, Scene

pytestmark = pytest.mark.steady
GATEWAY = "modelramp-gateway/gateway"
ROLLOUT: Body = {
    "steps": [{"weight": 20, "hold": "20s"}],
    "bake": "5s",
    "progressDeadline": "2m",
    "scaleDownDelay": "5s",
    "rollbackWindow": "1s",
}
TOLERANCE = 1.0  # points of share


class GatewayScene(Scene):
    """Its clients come by the Gateway."""

    def traffic(self) -> Body:
        return {"gateway": {"parentRefs": [{"name": "public", "namespace": "modelramp-gateway"}]}}

    def url(self) -> str:
        return stages.reach(GATEWAY)


@pytest.fixture(scope="module")
def scene(stage: Stage) -> Iterator[GatewayScene]:
    stages.cluster("up", "--with", "gateway")
    scene = GatewayScene(stage, "e2e-gateway")
    scene.open()
    scene.begin(1, ROLLOUT, replicas=2)
    url = f"{scene.url()}/v2/models/{scene.model}/infer"
    image, _ = read(stages.IMAGES)[0]
    # the operator may learn of HTTPRoutes half a minute after the object has come to rest
    wait("the Gateway to know the route", READY, lambda: stages.leads(url, image), pause=2.0)
    yield scene
    scene.close()
    stages.cluster("unpublish", GATEWAY)


def given(weight: int) -> Callable[[Status], bool]:
    """The weight is in force."""
    return lambda s: s.traffic.weight == weight and s.step is not None and s.step.in_force_since is not None


def share(scene: Scene, version: int, begin: float, end: float) -> tuple[int, float]:
    """Answers sent in a span, and percent of them that a version gave."""
    answers = [answer for answer in scene.world.answers if begin <= answer.sent < end]
    return len(answers), 100 * sum(answer.version == version for answer in answers) / len(answers)


def test_a_promotion_by_the_gateway_fails_no_request(scene: GatewayScene) -> None:
    with scene.clients(rate=150):
        scene.move(2)
        step = scene.world.wait("20 % for version 2", READY, given(20)).step
        more = scene.world.wait("more than that", READY, lambda status: status.traffic.weight > 20).traffic.renewed_at
        scene.world.wait("version 2 promoted", READY, serves(2))
        wait("the former pods to go", 60, lambda: len(scene.all_pods()) == 2)
    assert step and step.in_force_since and more
    count, percent = share(scene, 2, step.in_force_since.timestamp(), more.timestamp())
    assert count >= 1000 and abs(percent - 20) <= TOLERANCE, f"{percent:.2f} % of {count}"
    assert scene.history() == [("CandidateStarted", 1), ("Promoted", 1), ("CandidateStarted", 2), ("Promoted", 2)]
    assert {answer.net for answer in scene.world.answers} == {""}, "nobody answers for a candidate here"
    achieved = [c.status.step.achieved_weight for c in scene.world.changes if c.status.step and given(20)(c.status)]
    assert achieved[-1] == pytest.approx(20, abs=TOLERANCE)


def test_weights_that_somebody_changes_are_put_back_and_an_abort_fails_no_request(scene: GatewayScene) -> None:
    with scene.clients():
        scene.move(1)
        status = scene.world.wait("20 % for version 1", READY, given(20))
        assert status.candidate is not None
        revision = status.candidate.revision
        everything = '[{"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 80}]'
        begun = len(scene.world.changes)
        kubectl("patch", "httproute", OBJECT, "--type=json", f"--patch={everything}")
        scene.world.wait("no longer in force", 30, lambda status: not given(20)(status), since=begun)
        scene.world.wait("in force again", 30, given(20))
        kubectl("annotate", "mdep", OBJECT, f"modelramp.dev/abort={revision}#1")
        scene.world.wait("taken back", READY, taken_back)
        wait("the candidate's pods to go", 60, lambda: len(scene.all_pods()) == 2)
        returned = time.time()
    assert "WeightPutBack" in {event.reason for event in scene.world.events}
    assert [action for action, _ in scene.history()[-3:]] == ["CandidateStarted", "Aborting", "Rejected"]
    assert {answer.version for answer in scene.world.answers if answer.sent > returned} <= {2}


def taken_back(status: Status) -> bool:
    return status.phase is Phase.STABLE and status.candidate is None


def kubectl(*arguments: str) -> None:
    stages.cluster("kubectl", "-n", "e2e-gateway", *arguments)
