"""For the session a real node with MLflow, four registered versions and the operator; a namespace per scene.

The cluster is the clone's own (hack/cluster, MODELRAMP_CLUSTER_DIR). One that ran already is left running. Modules may
run side by side in several processes (pytest-xdist): the first of them sets the stage, the last strikes it. A module
marked `alone`, which takes the operator away, waits until the others are done; one marked `kills` only until those
are that are marked `steady`.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from examples.digits import stage as stages
from examples.digits.kube import Body
from examples.digits.stage import Stage
from tests.e2e.scene import REGISTRIES, RUNS_TRITON, Scene

BRING_UP, LONGEST = 1800.0, 420.0
IMAGES = "--test-images" if RUNS_TRITON else "--images"
HERE = Path(__file__).parent
SETTLED = HERE / "test_settled.py"
ORDER = [
    "settled",
    "hard_rows",
    "story",
    "autoscaled",
    "gateway",
    "dead_man",
    "drift",
    "triton",
    "shadow",
    "promotion",
    "takeover",
]
"""Modules as they begin, the others after them: long ones early. Each process takes one, and at once a second one if
the first has one or two tests only; so what wants to be alone stands behind the settled object, which only waits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a module waits for the cluster, or for its turn."""
    items.sort(key=lambda item: place(item.path.stem.removeprefix("test_")))
    begun: set[Path] = set()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONGEST if item.path in begun else BRING_UP))
            begun.add(item.path)


def place(module: str) -> int:
    return ORDER.index(module) if module in ORDER else len(ORDER)


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
            known["bad"] = registered(stages.prepare(print, REGISTRIES, IMAGES), "bad_models")
        write(file, {**known, "users": known["users"] + 1})
    yield stages.present()
    with locked("e2e.lock") as file:
        known = read(file, testrun_uid)
        write(file, {**known, "users": known["users"] - 1})
        if known["users"] == 1 and not known["found_running"]:
            stages.cluster("down")


def registered(stage: Stage, module: str) -> dict[str, int]:
    """The versions that a module of this folder makes, by name."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.e2e.{module}", stage.mlflow]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    done = subprocess.run(command, cwd=stages.ROOT, env=quiet, check=False, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return numbers


@pytest.fixture(scope="session")
def bad(stage: Stage, testrun_uid: str) -> dict[str, int]:
    """Versions that only live requests show to be bad, by name."""
    with locked("e2e.lock") as file:
        numbers: dict[str, int] = read(file, testrun_uid)["bad"]
    return numbers


@pytest.fixture(scope="module")
def of_triton(stage: Stage) -> dict[str, int]:
    """Versions that a Triton runs, by name."""
    return registered(stage, "triton_models")


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
    marks = {mark.name for mark in request.node.iter_markers()}
    with ExitStack() as stack:
        stack.enter_context(locked("e2e.turn", fcntl.LOCK_EX if "alone" in marks else fcntl.LOCK_SH))
        if marks & {"kills", "steady"}:
            stack.enter_context(locked("e2e.steady", fcntl.LOCK_EX if "kills" in marks else fcntl.LOCK_SH))
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
