"""For the session a real node with MLflow, four registered versions and the operator; a namespace per scene.

The cluster is the clone's own (hack/cluster, MODELRAMP_CLUSTER_DIR). One that ran already is left running. Modules may
run side by side in several processes (pytest-xdist): the first of them sets the stage, the last strikes it, and a
module marked `alone`, which does things to the operator or the registry, waits until the others are done.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from examples.digits import stage as stages
from examples.digits.kube import Body
from examples.digits.stage import Stage
from tests.e2e.scene import REGISTRIES, Scene

BRING_UP, LONGEST = 1800.0, 420.0
HERE = Path(__file__).parent
SETTLED = HERE / "test_settled.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The settled object first, as it only waits; modules that want to be alone last. The first test of a module
    waits for the cluster, or for its turn."""
    items.sort(key=lambda item: (item.path != SETTLED, item.get_closest_marker("alone") is not None))
    begun: set[Path] = set()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONGEST if item.path in begun else BRING_UP))
            begun.add(item.path)


@contextmanager
def locked(name: str, mode: int = fcntl.LOCK_EX) -> Iterator[TextIO]:
    """A file that processes share, open for as long as it is locked."""
    stages.OUTCOME.mkdir(exist_ok=True)
    with (stages.OUTCOME / name).open("a+") as file:
        fcntl.flock(file, mode)
        file.seek(0)
        yield file


@pytest.fixture(scope="session")
def stage(testrun_uid: str) -> Iterator[Stage]:
    with locked("e2e.lock") as file:
        known = read(file, testrun_uid)
        if known["users"] == 0:
            folder = Path(os.environ.get("MODELRAMP_CLUSTER_DIR") or stages.ROOT / ".cluster")
            known["found_running"] = (folder / "state.json").exists()
            stages.prepare(print, REGISTRIES)
        write(file, {**known, "users": known["users"] + 1})
    yield stages.present()
    with locked("e2e.lock") as file:
        known = read(file, testrun_uid)
        write(file, {**known, "users": known["users"] - 1})
        if known["users"] == 1 and not known["found_running"]:
            stages.cluster("down")


def read(file: TextIO, run: str) -> dict[str, Any]:
    """Who uses the stage. What another run has left behind counts for nothing."""
    known = json.loads(file.read() or "{}")
    return known if known.get("run") == run else {"run": run, "users": 0}


def write(file: TextIO, known: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(known))


@pytest.fixture(scope="module", autouse=True)
def _turn(request: pytest.FixtureRequest, stage: Stage) -> Iterator[None]:
    """Beside others, or alone. The settled object stands whatever others do."""
    if request.path == SETTLED:
        yield
        return
    alone = any(mark.name == "alone" for mark in request.node.iter_markers())
    with locked("e2e.turn", fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        yield


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, stage: Stage, _turn: None) -> Iterator[Scene]:
    """An empty namespace of the module's own, under PodSecurity `restricted`; the alias has the same name."""
    name = request.module.__name__.rpartition(".")[2].replace("test_", "e2e-").replace("_", "-")
    scene = Scene(stage, name)
    scene.open()
    yield scene
    scene.close()


@pytest.fixture
def operator(stage: Stage) -> Iterator[Callable[[int], None]]:
    """Scales the installed operator, and waits for it; it is back when the test is over."""

    def scale(replicas: int) -> None:
        body: Body = {"spec": {"replicas": replicas}}
        stage.kube.apps.patch_namespaced_deployment(stages.OPERATOR, stages.SYSTEM, body)
        stage.kube.await_deployment(stages.SYSTEM, stages.OPERATOR, 60)

    yield scale
    scale(1)
