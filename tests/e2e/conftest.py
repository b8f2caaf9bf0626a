"""For the session a real node with MLflow, four registered versions and the operator; a namespace per scene.

The cluster is the clone's own (hack/cluster, MODELRAMP_CLUSTER_DIR). One that ran already is left running.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.digits import stage as stages
from examples.digits.kube import Body
from examples.digits.stage import Stage
from tests.e2e.scene import Scene

BRING_UP, LONGEST = 1800.0, 420.0
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the cluster; the settled object is judged last, having had the others' time."""
    here = [item for item in items if HERE in item.path.parents]
    for index, item in enumerate(here):
        item.add_marker(pytest.mark.timeout(BRING_UP if index == 0 else LONGEST))
    items.sort(key=lambda item: item.path == HERE / "test_settled.py")


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    folder = Path(os.environ.get("MODELRAMP_CLUSTER_DIR") or stages.ROOT / ".cluster")
    found_running = (folder / "state.json").exists()
    yield stages.prepare(print)
    if not found_running:
        stages.cluster("down")


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Scene]:
    """An empty namespace of the module's own, under PodSecurity `restricted`; the alias has the same name."""
    name = request.module.__name__.rpartition(".")[2].replace("test_", "e2e-").replace("_", "-")
    scene = Scene(stage, name)
    scene.open()
    yield scene
    scene.close()


@pytest.fixture(scope="session")
def settled(stage: Stage) -> Iterator[tuple[Scene, float]]:
    """An object with nothing to do, and since when (seconds since the epoch)."""
    scene = Scene(stage, "e2e-settled")
    scene.open()
    scene.begin(1, replicas=1)
    yield scene, time.time()
    scene.close()


@pytest.fixture(scope="session", autouse=True)
def _settle_early(settled: tuple[Scene, float]) -> None:
    """So that it has been at rest for long when it is judged."""


@pytest.fixture
def operator(stage: Stage) -> Iterator[Callable[[int], None]]:
    """Scales the installed operator, and waits for it; it is back when the test is over."""

    def scale(replicas: int) -> None:
        body: Body = {"spec": {"replicas": replicas}}
        stage.kube.apps.patch_namespaced_deployment(stages.OPERATOR, stages.SYSTEM, body)
        stage.kube.await_deployment(stages.SYSTEM, stages.OPERATOR, 60)

    yield scale
    scale(1)
