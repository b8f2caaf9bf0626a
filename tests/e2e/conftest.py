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
from contextlib import ExitStack
from pathlib import Path

import pytest

from examples.digits import stage as stages
from examples.digits.kube import Body, wait
from examples.digits.stage import Stage
from tests import together
from tests.e2e.scene import REGISTRIES, RUNS_TRITON, Scene, operator_pods

BRING_UP, LONGEST = 1800.0, 900.0
IMAGES = "--test-images" if RUNS_TRITON else "--images"
HERE = Path(__file__).parent
SETTLED = HERE / "test_settled.py"
LINES = together.Lines(
    {
        "still": ["settled", "dead_man"],
        "hard": ["hard_rows", "drift"],
        "large": ["autoscaled", "takeover", "killed"],
        "steady": ["story", "gateway", "bad_candidates"],
        "others": ["promotion", "shadow", "triton"],
    }
)
"""By the process that runs them, modules in that order: so that all lines end at about one time, and the module that is
`alone`, which waits for all of them, stands behind one that only waits too."""
pytest_xdist_make_scheduler = LINES.scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a module waits for the cluster, or for its turn."""
    items.sort(key=lambda item: LINES.place(item.path))
    begun: set[Path] = set()
    for item in items:
        if HERE in item.path.parents:
            first = item.path not in begun
            item.add_marker(pytest.mark.timeout(BRING_UP if first else LONGEST), append=not first)
            begun.add(item.path)


@pytest.fixture(scope="session")
def _busy() -> Iterator[ExitStack]:
    """Held for as long as this process takes part in what needs all of the machine. Until it is over, who wants to be
    alone waits, and `make test` with the server's tests."""
    with ExitStack() as busy:
        for name in ("busy", "others"):
            busy.enter_context(together.locked(stages.OUTCOME / f"e2e.{name}", fcntl.LOCK_SH))
        yield busy


@pytest.fixture(scope="session")
def _set(testrun_uid: str, _busy: ExitStack) -> Iterator[together.Known]:
    with together.shared(stages.OUTCOME / "e2e.lock", testrun_uid, begin, end) as known:
        yield known


def begin() -> together.Known:
    folder = Path(os.environ.get("MODELRAMP_CLUSTER_DIR") or stages.ROOT / ".cluster")
    found_running = (folder / "state.json").exists()
    stage = stages.prepare(print, REGISTRIES, IMAGES)
    return {"found_running": found_running, "bad": registered(stage, "onnx_models")}


def end(known: together.Known) -> None:
    if not known["found_running"]:
        stages.cluster("down")


@pytest.fixture(scope="session")
def stage(_set: together.Known) -> Stage:
    return stages.present()


def registered(stage: Stage, module: str) -> dict[str, int]:
    """The versions that a module of this folder makes, by name."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.e2e.{module}", stage.mlflow]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    done = subprocess.run(command, cwd=stages.ROOT, env=quiet, check=False, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return numbers


@pytest.fixture(scope="session")
def bad(_set: together.Known) -> dict[str, int]:
    """Versions that only live requests show to be bad, by name."""
    numbers: dict[str, int] = _set["bad"]
    return numbers


@pytest.fixture(scope="module")
def of_triton(stage: Stage) -> dict[str, int]:
    """Versions that a Triton runs, by name."""
    return registered(stage, "triton_models")


@pytest.fixture(scope="module", autouse=True)
def _turn(request: pytest.FixtureRequest, stage: Stage) -> Iterator[None]:
    """Beside others. The settled object stands whatever others do; who wants to be alone says when (`alone`)."""
    marks = together.marks(request)
    if request.path == SETTLED or "alone" in marks:
        yield
        return
    with together.turn(stages.OUTCOME, "e2e", marks):
        yield


@pytest.fixture(scope="module")
def alone(stage: Stage, _busy: ExitStack) -> Iterator[None]:
    """From when all others are done."""
    _busy.close()
    with together.locked(stages.OUTCOME / "e2e.others"):
        yield


@pytest.fixture(scope="session")
def stays(_set: together.Known) -> bool:
    """Whether the cluster is there after the tests too."""
    return bool(_set["found_running"])


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
    """Scales the installed operator, and waits until no other runs; it is back when the test is over."""

    def scale(replicas: int) -> None:
        body: Body = {"spec": {"replicas": replicas}}
        stage.kube.apps.patch_namespaced_deployment(stages.OPERATOR, stages.SYSTEM, body)
        stage.kube.await_deployment(stages.SYSTEM, stages.OPERATOR, 60)
        wait("the former operator's end", 60, lambda: len(operator_pods(stage.kube)) == replicas)

    yield scale
    scale(1)
