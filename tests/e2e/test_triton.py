"""A real Triton in the server's pods runs the model: the next version is ramped up and promoted, pods that end drain,
a version whose Triton dies is taken back. No request fails."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from examples.digits import stage as stages
from examples.digits.answers import by_version, tally
from examples.digits.kube import Body
from examples.digits.measures import FULL, held, share
from examples.digits.names import MODEL
from examples.digits.stage import Stage
from examples.digits.story import serves
from examples.digits.traffic import read
from tests.e2e.scene import LITTLE, NAME, QUICK, READY, RUNS_TRITON, Scene, rejected

pytestmark = pytest.mark.skipif(not RUNS_TRITON, reason="needs a system whose Python is 3.9 to 3.12")
WEIGHT, ENOUGH, TOLERANCE = 25, 300, 1.0  # percent, answers to measure it, points
UNREACHABLE = ""
ROLLOUT: Body = {**QUICK, "steps": [{"weight": WEIGHT, "hold": "6s"}]}


class TritonScene(Scene):
    """The server does not know the model's flavour; the Triton beside it does."""

    model = MODEL

    def server(self) -> Body:
        loopback = ["--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
        args = ["--model-repository=$(MODEL_PATH)/triton", *loopback]
        upstream = {"image": "localhost/modelramp-triton:dev", "args": args, "resources": LITTLE}
        return {**super().server(), "upstream": upstream}


@pytest.fixture(scope="module")
def scene(stage: Stage, of_triton: dict[str, int]) -> Iterator[TritonScene]:
    scene = TritonScene(stage, "e2e-triton")
    scene.open()
    scene.begin(of_triton["fair"], ROLLOUT, replicas=2)
    yield scene
    scene.close()


def test_the_next_version_is_ramped_up_and_promoted(scene: TritonScene, of_triton: dict[str, int]) -> None:
    fair, better = of_triton["fair"], of_triton["better"]
    with scene.clients():
        scene.move(better)
        scene.world.wait("the better version promoted", READY, serves(better))
        with urllib.request.urlopen(f"{scene.url()}/metrics", timeout=10) as page:
            assert 'runtime="upstream"' in page.read().decode()
    [ramp] = [weight for weight in held(scene.world.changes, better) if weight.weight < FULL]
    dealt = share(scene.world.answers, ramp)
    assert dealt.weight == WEIGHT
    assert dealt.answers >= ENOUGH
    assert dealt.off_by <= TOLERANCE, f"{dealt.percent:.2f} % of {dealt.answers}"
    right = {version: tally(answers).accuracy or 0.0 for version, answers in by_version(scene.world.answers).items()}
    assert right.keys() == {fair, better}
    assert 0.8 < right[fair] < right[better] - 0.02


def test_a_pod_that_ends_and_a_version_whose_triton_dies(scene: TritonScene, of_triton: dict[str, int]) -> None:
    crashing = of_triton["crashing"]
    with scene.clients():
        scene.move(crashing)
        end_a_pod(scene)
        status = scene.world.wait("the crashing version rejected", READY, rejected(crashing))
    assert status.rejected[-1].reason == "CrashLoop"
    assert "the upstream died" in status.rejected[-1].message


def end_a_pod(scene: TritonScene) -> None:
    """Of stable. It has its Triton until it has drained."""
    stable = scene.status().stable
    assert stable is not None
    chosen = f"{NAME},modelramp.dev/revision={stable.revision}"
    pod, other = scene.kube.core.list_namespaced_pod(scene.namespace, label_selector=chosen).items
    right = asked(scene, pod)
    assert "digit" in right
    scene.kube.core.delete_namespaced_pod(pod.metadata.name, scene.namespace)
    while (log := log_of_triton(scene, pod)) and (answer := asked(scene, pod)) != UNREACHABLE:
        assert answer == right
        assert "Signal" not in log, "it is told to end when the server has ended"
    assert other.metadata.uid in scene.pods(stable.revision)


def asked(scene: TritonScene, pod: Any) -> str:
    """What this one pod answers to one image, however little anybody should ask it any more."""
    image, _ = read(stages.IMAGES)[0]
    told = of_pod(scene, pod, "POST", f":8080/proxy/v2/models/{MODEL}/infer", json.loads(image))
    return UNREACHABLE if '"kind":"Status"' in told else told


def log_of_triton(scene: TritonScene, pod: Any) -> str:
    return of_pod(scene, pod, "GET", "/log?container=upstream")


def of_pod(scene: TritonScene, pod: Any, method: str, path: str, body: Body | None = None) -> str:
    """What the API server answers about a pod, or brings from it."""
    api = scene.kube.api
    url = f"{api.configuration.host}/api/v1/namespaces/{scene.namespace}/pods/{pod.metadata.name}{path}"
    answer: bytes = api.call_api(method, url, {"content-type": "application/json"}, body).read()
    return answer.decode()
