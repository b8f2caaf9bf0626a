"""The dead-man's switch: without an operator all traffic is stable's within the ttl, whatever clock comes back."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from examples.digits import stage as stages
from examples.digits.kube import Body, wait
from examples.digits.stage import Stage
from examples.digits.story import serves
from modelramp.api.status import Phase, Status
from tests.e2e.scene import READY, REGISTRIES, Scene

pytestmark = pytest.mark.alone
TTL = 15.0  # seconds, the shortest allowed; the shipped default is two minutes
SLACK = 3.0  # for requests under way, and the volume that carries the split
LONG: Body = {"steps": [{"weight": 50, "hold": "10m"}], "bake": "3s", "scaleDownDelay": "5s"}


@pytest.fixture(scope="module")
def _serving(scene: Scene) -> None:
    scene.begin(1, LONG, replicas=2)


@pytest.fixture(scope="module", autouse=True)
def _short_ttl(stage: Stage, _serving: None, alone: None, stays: bool) -> Iterator[None]:
    stages.install(stage.kube, registries=REGISTRIES, trafficTTL=f"{TTL:.0f}s")
    stage.kube.await_deployment(stages.SYSTEM, stages.OPERATOR, 120)
    yield
    if stays:
        stages.install(stage.kube, registries=REGISTRIES)
        stage.kube.await_deployment(stages.SYSTEM, stages.OPERATOR, 120)


@contextlib.contextmanager
def operator_with_clock(scene: Scene, offset: float, folder: Path) -> Iterator[None]:
    """An operator outside the cluster, as its user, with its wall clock wrong by so many seconds."""
    registry = {"uri": scene.stage.mlflow, "podUri": stages.REGISTRIES["default"]["uri"]}
    settings = {
        "serverImage": "localhost/modelramp-server:dev",
        "trafficTTL": f"{TTL:.0f}s",
        "scrape": "PodProxy",
        "logFormat": "text",
        "registries": {"default": registry},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    environment = os.environ | {
        "KUBECONFIG": stages.cluster("kubeconfig"),
        "MODELRAMP_CONFIG": str(folder / "config.yaml"),
        "MODELRAMP_NAMESPACE": stages.SYSTEM,
        "MODELRAMP_HEALTH_HOST": "127.0.0.1",
        "MODELRAMP_HEALTH_PORT": "0",
    }
    command = [sys.executable, "-m", "tests.e2e.skewed_operator", str(offset)]
    with (folder / "operator.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=stages.ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()  # gives its Lease back, so that nobody waits for that to expire
        process.wait(30)
        print((folder / "operator.log").read_text()[-3000:])


def in_force(status: Status) -> bool:
    return status.phase is Phase.RAMPING and status.step is not None and status.step.in_force_since is not None


def candidate_answers(scene: Scene, since: float) -> int:
    return sum(answer.version == 2 for answer in scene.world.answers if answer.sent >= since)


def await_share(scene: Scene, back: float) -> None:
    wait("the candidate's share", READY, lambda: candidate_answers(scene, back) > 200)


def await_silence(scene: Scene, gone: float) -> None:
    """From `gone` (epoch seconds) on nobody renews the split: after the ttl, nothing may reach the candidate."""
    end = gone + TTL + SLACK
    wait("answers after the ttl", TTL + SLACK + 30, lambda: scene.world.answers[-1].sent > end + 3)
    assert candidate_answers(scene, gone) > 0, "the weight was held until the ttl was over"
    late = [answer for answer in scene.world.answers if answer.sent > end]
    assert {answer.version for answer in late} == {1}


def test_traffic_returns_within_the_ttl_and_the_rollout_goes_on(
    scene: Scene, operator: Callable[[int], None], tmp_path: Path
) -> None:
    with scene.clients():
        scene.move(2)
        scene.world.wait("50 % in force", READY, in_force)
        operator(0)
        await_silence(scene, time.time())
        for offset in (600, -600):
            with operator_with_clock(scene, offset, tmp_path):
                await_share(scene, time.time())
                assert scene.status().phase is Phase.RAMPING
            await_silence(scene, time.time())
        scene.apply({**LONG, "steps": [{"weight": 50, "hold": "3s"}]}, replicas=2)
        operator(1)
        scene.world.wait("version 2 promoted", READY + 60, serves(2))
    assert [action for action, version in scene.history() if version == 2] == ["CandidateStarted", "Promoted"]
