"""The scenes of docs/rollouts.md: in which world each of its played blocks is played."""

import math
from typing import Any

from modelramp.domain.findings import Inference
from tests.unit.gateway_world import GATEWAY_SPEC, GatewayWorld
from tests.unit.happenings import UNSCHEDULABLE, died, failing, service, sets, sources
from tests.unit.played import STEPS, Scene, Stage
from tests.unit.simulation import Behaviour
from tests.unit.test_takeover import ANNOTATION

LAZY, EVEN = {"0": 0.7, "1": 0.3}, {"0": 0.5, "1": 0.5}
QUERY = {"source": "main", "query": "p99-latency", "max": 0.5, "interval": "10s"}
GATES = {
    "metrics": [{"name": "val_dice", "min": 0.8}],
    "tags": [{"name": "validated", "value": "true"}],
    "smoke": {"examples": [{"input": {"inputs": [[0]]}}]},
}
APPROVAL = {"pause": {"approval": "release"}}


def unsplit(stage: Stage) -> None:
    """Stable's pods know no split."""
    tick = stage.world.tick

    def ticked(seconds: float) -> None:
        tick(seconds)
        for pod in stage.world.pods.values():
            pod.split_version = 0

    stage.world.tick = ticked  # type: ignore[method-assign]


def takes_over(stage: Stage) -> None:
    assert stage.world.owner is not None
    stage.world.owner["metadata"]["annotations"][ANNOTATION] = "classify"


SHORT: list[dict[str, Any]] = [{"weight": 10, "hold": "5s"}, {"weight": 50, "hold": "5s"}]
LOADS_NOT = failing(died("server", "LoadFailed", "model.onnx: unsupported opset 99"))
OWN_FAULTS = {
    2: failing(died("server", "WarmupFailed", "input: 3 dimensions, the model takes 2")),
    3: failing(died("server", "OOMKilled")),
    4: failing(died("server", "Error")),
    5: Behaviour(ready_after=math.inf),
    6: LOADS_NOT,
}
UNDECIDED: dict[str, Any] = {"steps": SHORT, "analysis": {"maxDuration": "30s"}}
ABORTS: dict[str, Any] = {"steps": SHORT, "analysis": {"maxDuration": "30s", "onInconclusive": "Abort"}}


def runs(stage: Stage) -> None:
    """What MLflow knows of each version's run, and its tags."""
    stage.world.metrics_of = {number: {"val_dice": 0.7 if number == 3 else 0.9} for number in range(1, 5)}
    stage.world.tags_of = {number: {"validated": "true"} for number in (1, 3, 4)}


SCENES = {
    "promoted": Scene(),
    "fails": Scene(later={2: Behaviour(bad_rate=0.1)}),
    "approved": Scene({"steps": [STEPS[0], APPROVAL, STEPS[1]]}),
    "no room": Scene(later={2: failing(UNSCHEDULABLE)}),
    "does not load": Scene(later={2: LOADS_NOT}),
    "rolled back": Scene(),
    "nothing to serve yet": Scene(asks=False, prepare=lambda stage: stage.world.aliases.clear()),
    "a first revision that does not come": Scene(
        {"progressDeadline": "20s"}, {1: Behaviour(ready_after=40)}, asks=False
    ),
    "a first revision that does not load": Scene(later={1: LOADS_NOT}, asks=False),
    "no such version": Scene(asks=False, prepare=sets(deleted_versions={7})),
    "the name is taken": Scene(asks=False, prepare=sets(foreign="Service digits")),
    "a mistake in the spec": Scene(asks=False),
    "the registry is away": Scene(asks=False),
    "a place in line": Scene(asks=False),
    "frozen": Scene(asks=False, prepare=sets(time=1_780_000_000.0)),
    "a person holds it": Scene({"steps": [SHORT[0], {"pause": {}}, STEPS[1]]}),
    "no verdict": Scene(UNDECIDED, prepare=sets(rps=10.0)),
    "no verdict and no person": Scene(ABORTS, prepare=sets(rps=10.0)),
    "stable is down": Scene(later={2: Behaviour(ready_after=5)}),
    "drift": Scene({"steps": [{"weight": 50, "hold": "2m"}]}, {1: Behaviour(classes=EVEN), 2: Behaviour(classes=LAZY)}),
    "rejected": Scene({"progressDeadline": "10s"}, OWN_FAULTS),
    "held on failure": Scene({"onFailure": "Pause"}, {2: Behaviour(bad_rate=0.3)}),
    "another is asked for": Scene(),
    "nothing is asked for": Scene(),
    "pods that do not come": Scene({"progressDeadline": "10m"}, {2: Behaviour(ready_after=math.inf)}),
    "pods under way": Scene(later={2: Behaviour(ready_after=5)}),
    "too few pods for the load": Scene({"steps": SHORT}, {2: Behaviour(refused_rate=0.6)}),
    "gates": Scene(
        {"gates": GATES}, {4: Behaviour(answer=Inference(500, {"error": "no such column"}, 0.1))}, prepare=runs
    ),
    "shadow": Scene({"steps": [{"shadow": 20, "hold": "20s"}, STEPS[0]]}),
    "no shadow": Scene({"steps": [{"shadow": 20, "hold": "20s"}, STEPS[0]]}, prepare=sets(copying=False)),
    "no split": Scene(prepare=unsplit),
    "queries": Scene({"analysis": {"queries": [QUERY]}}, prepare=lambda stage: sources(stage)),
    "gateway": Scene(world=lambda wanted: GatewayWorld({**wanted, "traffic": GATEWAY_SPEC["traffic"]})),
    "no service to take over": Scene(asks=False, prepare=takes_over),
    "taking over a service": Scene(asks=False, prepare=lambda stage: (takes_over(stage), service(stage))),
    "going back by itself": Scene({"steps": SHORT, "scaleDownDelay": "5m", "bake": "5s"}),
    "going back by alias": Scene({"steps": [{"weight": 50, "hold": "5s"}], "bake": "5s"}),
    "the status is lost": Scene(asks=False),
    "commands": Scene(),
    "a change of the spec": Scene({"steps": SHORT, "bake": "5s"}),
    "an abort cut short": Scene(later={2: Behaviour(bad_rate=0.3)}),
}
