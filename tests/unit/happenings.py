"""What may happen in the scenes of docs/rollouts.md, beside commands: ``# words`` of a played block."""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from modelramp.adapters.faults import pod_fault
from modelramp.adapters.routes import why
from modelramp.domain.fleet import Limits
from modelramp.domain.freeze import Freeze
from modelramp.domain.world import Fault
from modelramp.engine.fleet import Fleet
from modelramp.engine.reconcile import read_status
from modelramp.engine.registries import RegistryConfig
from modelramp.engine.sources import SourceConfig, Sources
from modelramp.ports import ClusterError, Key
from tests.unit.gateway_world import ROUTE, GatewayWorld
from tests.unit.played import Stage
from tests.unit.simulation import Behaviour, SimulatedWorld
from tests.unit.test_queries import Server
from tests.unit.test_takeover import ANNOTATION, OLD, OWNED, PLAIN


def died(container: str, reason: str, said: str = "", restarts: int = 2) -> Fault:
    """What kubelet tells of a container that has ended."""
    message = f'{{"reason": "{reason}", "message": "{said}"}}' if said else ""
    end = {"exitCode": 137 if reason == "OOMKilled" else 1, "reason": reason, "message": message}
    told = {"name": container, "restartCount": restarts, "lastState": {"terminated": end}}
    which = "initContainerStatuses" if container == "fetch" else "containerStatuses"
    return found({which: [told]})


def waits(container: str, reason: str, message: str) -> Fault:
    told = {"name": container, "state": {"waiting": {"reason": reason, "message": message}}}
    return found({"containerStatuses": [told]})


def found(status: dict[str, Any]) -> Fault:
    fault = pod_fault({"status": status})
    assert fault is not None
    return fault


UNSCHEDULABLE = found(
    {
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: insufficient memory",
            }
        ]
    }
)
FAULTS = {
    "no node has room": UNSCHEDULABLE,
    "the image is missing": waits("server", "ErrImagePull", 'failed to pull "server:2": not found'),
    "a Secret is missing": waits("server", "CreateContainerConfigError", 'secret "s3-login" not found'),
    "the pod's node is short of memory": found(
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    ),
    "a file of the model is missing": died(
        "fetch", "ArtifactDamaged", "MLmodel names model.onnx, which is missing; the artifact is incomplete"
    ),
    "the model is a pickle": died(
        "fetch", "UnsupportedModel", "model.pkl is a pickle; log it with serialization_format='skops'"
    ),
    "it needs a package": died("fetch", "MissingPackages", "the sklearn flavour needs xgboost, not in this image"),
    "its node has no GPU": died(
        "server", "DeviceUnavailable", "INFERENCE_DEVICE is cuda, but this machine has no GPU; set it to auto or cpu"
    ),
    "the download dies": died("fetch", "Error"),
}
UNKNOWN = ClusterError("not found", status=404)
QUOTA = Fault("FailedCreate", 'pods "digits-" is forbidden: exceeded quota: shop', models_own=False)


def failing(fault: Fault) -> Behaviour:
    return Behaviour(fault=fault)


# What may happen


def names(stage: Stage, version: str) -> None:
    stage.world.aliases["prod"] = int(version)


def fault(stage: Stage, what: str) -> None:
    stage.world.behaviours[2] = failing(FAULTS[what])


def freezes(stage: Stage) -> None:
    begin = stage.world.now().replace(second=0, microsecond=0)
    schedule = f"{begin.minute} {begin.hour} {begin.day} {begin.month} *"
    freeze = Freeze(schedule, timedelta(hours=1), ZoneInfo("UTC"))
    stage.options["fleet"] = Fleet(stage.world, None, [freeze])
    stage.starts_anew()


def is_full(stage: Stage) -> None:
    """Another object's rollout has the only place."""
    stage.options["fleet"] = fleet = Fleet(stage.world, Limits(total=1))
    other = SimulatedWorld(stage.world.spec)
    moving = {"revision": "0" * 8, "version": 2, "cause": "Alias", "salt": "", "startedAt": stage.world.now()}
    stable = {"revision": "1" * 8, "version": 1, "since": stage.world.now()}
    assert other.owner is not None
    status = read_status({"status": {"candidate": moving, "stable": stable, "phase": "Gating"}})
    assert status.candidate is not None
    fleet.note(Key("shop", "other"), status)
    stage.starts_anew()


def registries(stage: Stage, **config: Any) -> None:
    name = config.pop("name", "default")
    stage.options["configs"] = {name: RegistryConfig("http://mlflow", **config)}
    stage.starts_anew()


def sources(stage: Stage, *queries: str, namespaces: tuple[str, ...] = ("*",), answer: float | str = 0.2) -> None:
    configs = {"main": SourceConfig(dict.fromkeys(queries, "up"), namespaces)}
    stage.options["sources"] = Sources(configs, {"main": Server(answer)})
    stage.starts_anew()


def sets(**attributes: Any) -> Callable[[Stage], None]:
    """Something of the world is other from now on."""

    def happens(stage: Stage) -> None:
        for name, value in attributes.items():
            assert hasattr(stage.world, name), name
            setattr(stage.world, name, value)

    return happens


def version(number: int, **changes: Any) -> Callable[[Stage], None]:
    """The pods of a version behave otherwise from now on."""

    def happens(stage: Stage) -> None:
        before = stage.world.behaviours.get(number, Behaviour())
        stage.world.behaviours[number] = replace(before, **changes)

    return happens


def half_a_minute(stage: Stage) -> None:
    stage.world.time += 30


def both(*happenings: Callable[[Stage], None]) -> Callable[[Stage], None]:
    def happens(stage: Stage) -> None:
        for happening in happenings:
            happening(stage)

    return happens


def loses_its_pods(stage: Stage) -> None:
    """They have to start again."""
    for pod in stage.world.pods.values():
        if pod.version == 2:
            pod.born = stage.world.time + 5


def service(stage: Stage, **parts: Any) -> None:
    body = copy.deepcopy(PLAIN)
    for part, values in parts.items():
        body[part] |= values
    stage.world.services["classify"] = body


def sets_back(stage: Stage) -> None:
    body = stage.world.services["classify"]
    body["spec"]["selector"] = dict(OLD)
    entry = {"manager": "argocd-controller", "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:spec": {"f:selector": {}}}}
    body["metadata"]["managedFields"] = [entry]


def meddles(stage: Stage) -> None:
    assert isinstance(stage.world, GatewayWorld)
    stage.world.meddle([0, 100])


def edits(stage: Stage, **changes: Any) -> None:
    stage.world.edit(**changes)


def asks_for(stage: Stage, version: str) -> None:
    stage.world.edit(model={"name": "digits", "version": int(version)})


def forgets_why(stage: Stage) -> None:
    del stage.world.status["candidate"]["abort"]


HAPPENS: dict[str, Callable[..., None]] = {
    r"the alias names version (\d)": names,
    r"the alias is deleted": lambda stage: stage.world.aliases.clear(),
    r"the registry does not answer": sets(registry_up=False),
    r"the registry answers again": sets(registry_up=True),
    r"the model is deleted": sets(registered=False),
    r"the operator starts anew": Stage.starts_anew,
    r"the administrator takes the model from this namespace": partial(registries, namespaces=("team-*",)),
    r"the administrator renames the registry": partial(registries, name="main"),
    r"spec\.model\.version: (\d)": asks_for,
    f"({'|'.join(FAULTS)})": fault,
    r"quota allows no pod": both(version(2, fault=None, ready_after=math.inf), sets(quota=QUOTA)),
    r"its pods start": both(version(2, fault=None, ready_after=2.0), sets(quota=None)),
    r"half a minute later": half_a_minute,
    r"a freeze window opens": freezes,
    r"another rollout has the only place": is_full,
    r"the pods cannot be reached": sets(pods_reachable=False),
    r"the pods are reached again": sets(pods_reachable=True),
    r"the candidate's pods are lost": loses_its_pods,
    r"the pods' counters cannot be read": sets(deaf=True),
    r"stable's pods go down": version(1, ready_after=math.inf),
    r"version 2 fails one request in three": version(2, bad_rate=0.33),
    r"the tag validated is set": lambda stage: stage.world.tags_of.update({2: {"validated": "true"}}),
    r"it is deleted with --cascade=orphan, and applied again": lambda stage: stage.world.lose_status(),
    r"there is a Service classify of a Gateway": partial(service, metadata={"ownerReferences": [OWNED]}),
    r"there is a Service classify without selector": partial(service, spec={"selector": None}),
    r"Argo CD sets its selector back": sets_back,
    r"the annotation is taken off": lambda stage: stage.world.owner["metadata"]["annotations"].pop(ANNOTATION),
    r"somebody else writes weights into the route": meddles,
    r"no listener takes the host": sets(refusal={"Accepted": "no listener matches digits.test"}),
    r"the API server has no HTTPRoute": sets(unusable={ROUTE.kind: why(ROUTE, UNKNOWN)}),
    r"spec\.traffic is taken out": partial(edits, traffic={}),
    r"the administrator adds the query": lambda stage: sources(stage, "p99-latency"),
    r"Prometheus does not answer": lambda stage: sources(stage, "p99-latency", answer="connection refused"),
    r"the administrator takes the source from this namespace": lambda stage: sources(
        stage, "p99-latency", namespaces=("team-*",)
    ),
    r"a step with a mistake": partial(edits, rollout={"steps": [{"weight": 10, "hold": "soon"}]}),
    r"the status no longer says why": forgets_why,
}


def happen(stage: Stage, words: str) -> None:
    told = next((found for pattern in HAPPENS if (found := re.fullmatch(pattern, words))), None)
    assert told is not None, f"nothing of this kind can happen: {words}"
    HAPPENS[told.re.pattern](stage, *told.groups())
