"""A simulated cluster, registry, and clock behind the engine's ports: everything a rollout touches, in memory.

Deterministic. Time moves only in `World.tick`; each write is counted, and can be made the last one.
"""

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, TypeVar

from modelramp.adapters import other_services
from modelramp.desired.meta import (
    MESSAGE_ANNOTATION,
    REASON_ANNOTATION,
    REVISION_LABEL,
    STATE_ANNOTATION,
)
from modelramp.domain.findings import Inference, Tensor
from modelramp.domain.world import (
    Event,
    Fault,
    ModelVersion,
    OtherService,
    Pod,
    PodMetrics,
    Revision,
    SplitCounts,
    Workload,
    World,
)
from modelramp.engine.approvals import Approvals
from modelramp.engine.fleet import Fleet
from modelramp.engine.reconcile import EngineConfig, Reconciler
from modelramp.engine.registries import Registries, RegistryConfig
from modelramp.engine.sources import Sources
from modelramp.engine.writeback import WriteBack
from modelramp.ports import (
    Conflict,
    Key,
    Kind,
    Object,
    Observation,
    Observer,
    ProbeError,
    RegisteredModel,
    RegistryError,
)

KEY = Key("shop", "digits")
DEPLOYMENT = Kind("apps/v1", "Deployment")
COUNTED = ("ok", "bad", "refused", "c_ok", "c_bad", "c_error", "s_ok", "s_bad", "agree", "disagree")
BOUNDS = (0.01, 0.016, 0.025, 0.04, 0.063, 0.1, math.inf)

Value = TypeVar("Value")


class Killed(BaseException):
    """The operator's process has ended, here and now."""


@dataclass
class Behaviour:
    """How the pods of one version behave."""

    ready_after: float = 2.0  # seconds; inf: never
    bad_rate: float = 0.0
    refused_rate: float = 0.0
    service: float = 0.02  # seconds of every answer
    classes: Mapping[str, float] = field(default_factory=dict)  # what it predicts: share of its answers by class
    disagreement: float = 0.0  # of its answers to copies
    fault: Fault | None = None
    example: dict[str, Any] | None = None
    inputs: tuple[Tensor, ...] = (Tensor("input", "FP64", (-1, 64)),)
    answer: Inference = field(default_factory=lambda: Inference(200, {"predictions": [4]}, 0.002))


@dataclass
class SimPod:
    name: str
    revision: str
    version: int
    born: float
    split: str = ""
    split_version: int = 1
    found: int | None = None  # the generation that its server found when it started, and does not obey
    generation: int = 0
    weight: int = 0
    shadow: int = 0
    heard: float = 0.0
    ttl: float | None = None
    salt: str = ""
    owed: float = 0.0  # bad answers of the candidate that are due
    owed_disagreement: float = 0.0
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    service: dict[tuple[str, str], Counter[float]] = field(default_factory=dict)  # answers per bucket, by salt and side
    predicted: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)  # answers by class, likewise

    @property
    def counted_as(self) -> str:
        """The salt under which it counts now."""
        return self.salt if self.weight or self.shadow else ""

    def serve(self, side: str, seconds: float, answers: int) -> None:
        bound = next((bound for bound in BOUNDS if seconds <= bound), math.inf)
        self.service.setdefault((self.counted_as, side), Counter())[bound] += answers

    def copy(self, requests: int, theirs: "Behaviour", counts: dict[str, int]) -> None:
        """Copies some of the requests that it has answered, and compares."""
        copies = requests * self.shadow // 100
        self.owed += copies * theirs.bad_rate
        bad = int(self.owed)
        self.owed -= bad
        self.owed_disagreement += (copies - bad) * theirs.disagreement
        other = int(self.owed_disagreement)
        self.owed_disagreement -= other
        for name, count in (("s_bad", bad), ("s_ok", copies - bad), ("disagree", other)):
            counts[name] += count
        counts["agree"] += copies - bad - other
        self.serve("shadow", theirs.service, copies - bad)

    def predict(self, side: str, shares: Mapping[str, float], answers: int) -> None:
        counted = self.predicted.setdefault((self.counted_as, side), {})
        for name, share in shares.items():
            counted[name] = counted.get(name, 0.0) + answers * share

    def classes(self, salt: str, side: str) -> dict[str, int]:
        return {name: int(count) for name, count in self.predicted.get((salt, side), {}).items()}

    def histogram(self, salt: str, side: str) -> dict[float, int]:
        counted = self.service.get((salt, side), Counter())
        return dict(zip(BOUNDS, accumulate(counted[bound] for bound in BOUNDS), strict=True))


class SimulatedWorld:
    """The API server, its controllers, the kubelet, the pods, their clients, the registry and the wall clock."""

    def __init__(self, spec: Mapping[str, Any], rps: float = 100.0, key: Key = KEY) -> None:
        self.key = key
        self.time = 1_000_000.0
        self.skew = 0.0
        self.foreign = ""
        self.quota: Fault | None = None  # why no Deployment may make pods
        self.deaf = False  # nobody can ask the pods anything
        self.copying = True  # the pods' image knows shadows
        self.clustered = False  # stable's few errors come many at a time
        self.bursts = False  # and what it refuses
        self.rps = rps
        self.owner: Object | None = None
        self.spec = dict(spec)
        self.children: dict[tuple[Kind, str], Object] = {}
        self.services: dict[str, Object] = {}  # of somebody else
        self.pods: dict[str, SimPod] = {}
        self.behaviours: dict[int, Behaviour] = {}
        self.aliases: dict[str, int] = {"prod": 1}
        self.models_born = 1000
        self.registered = True
        self.deleted_versions: set[int] = set()
        self.registry_up = True
        self.metrics_of: dict[int, dict[str, float]] = {}
        self.tags_of: dict[int, dict[str, str]] = {}
        self.registry_writable = True
        self.tag_writes: list[str] = []
        self.pods_reachable = True
        self.asked: list[str] = []  # of the registry and of pods, for the gates' sake
        self.writes: list[str] = []
        self.kill_before: int | None = None
        self.kill_after: int | None = None
        self.conflict_at: int | None = None
        self.events: list[Event] = []
        self._version = 0
        self._uids = 0
        self.create()

    # People

    def create(self) -> None:
        self._uids += 1
        self.owner = {
            "apiVersion": "modelramp.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {
                "namespace": self.key.namespace,
                "name": self.key.name,
                "uid": f"uid-{self._uids}",
                "generation": 1,
                "resourceVersion": self._next(),
                "annotations": {},
            },
            "spec": copy.deepcopy(self.spec),
            "status": {"observedGeneration": -1},
        }

    def edit(self, **changes: Any) -> None:
        assert self.owner is not None
        self.owner["spec"] = {**self.owner["spec"], **changes}
        self.owner["metadata"]["generation"] += 1
        self.owner["metadata"]["resourceVersion"] = self._next()

    def command(self, verb: str, value: str) -> None:
        assert self.owner is not None
        self.owner["metadata"]["annotations"][f"modelramp.dev/{verb}"] = value
        self.owner["metadata"]["resourceVersion"] = self._next()

    def lose_status(self) -> None:
        """What ``kubectl delete --cascade=orphan`` and a new ``apply`` leave."""
        self.create()
        for at, child in self.children.items():
            self.children[at] = {**child, "metadata": {**child["metadata"], "ownerReferences": []}}

    @property
    def status(self) -> dict[str, Any]:
        assert self.owner is not None
        status: dict[str, Any] = self.owner["status"]
        return status

    # Time

    def shift_clock(self, seconds: float) -> None:
        """The operator's wall clock is put forward or back."""
        self.skew += seconds

    def tick(self, seconds: float) -> None:
        self.time += seconds
        self._run_controllers()
        for pod in self.pods.values():
            self._read_split(pod)
        self._serve(seconds)

    def _run_controllers(self) -> None:
        wanted = {
            child["metadata"]["labels"][REVISION_LABEL]: child
            for (kind, _), child in self.children.items()
            if kind == DEPLOYMENT
        }
        for name in [n for n, p in self.pods.items() if p.revision not in wanted]:
            del self.pods[name]
        for revision, deployment in wanted.items():
            mine = [p for p in self.pods.values() if p.revision == revision]
            size = deployment["spec"]["replicas"]
            for pod in mine[size:]:
                del self.pods[pod.name]
            env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
            version = int(next(e["value"] for e in env if e["name"] == "MODEL_VERSION"))
            for _ in range(size - len(mine)):
                self._uids += 1
                name = f"{deployment['metadata']['name']}-{self._uids}"
                self.pods[name] = SimPod(name, revision, version, self.time)

    def ready(self, pod: SimPod) -> bool:
        behaviour = self.behaviours.get(pod.version, Behaviour())
        return behaviour.fault is None and self.time - pod.born >= behaviour.ready_after

    def _read_split(self, pod: SimPod) -> None:
        behaviour = self.behaviours.get(pod.version, Behaviour())
        if pod.split_version == 0 or self.time - pod.born < behaviour.ready_after / 2:
            return  # a server that reads no split; or none yet
        split = json.loads(pod.split) if pod.split else {}
        if pod.found is None:
            pod.found = split.get("generation", 0) if split.get("ttl") is not None else 0
        if split.get("generation", 0) <= pod.found:
            return
        if split and split.get("generation", pod.generation) != pod.generation:
            pod.generation, pod.weight, pod.salt = split["generation"], split["weight"], split["salt"]
            pod.shadow = split.get("shadow", {}).get("share", 0) if self.copying else 0
            pod.heard, pod.ttl = self.time, split["ttl"]
        if pod.ttl is not None and self.time - pod.heard > pod.ttl:
            pod.weight = pod.shadow = 0

    def _serve(self, seconds: float) -> None:
        service = self.children.get((Kind("v1", "Service"), self.key.name))
        if service is None:
            return
        selected = service["spec"]["selector"][REVISION_LABEL]
        serving = [p for p in self.pods.values() if p.revision == selected and self.ready(p)]
        for pod in serving:
            requests = round(self.rps * seconds / len(serving))
            to_candidate = requests * pod.weight // 100
            counts = pod.splits.setdefault(pod.counted_as, dict.fromkeys(COUNTED, 0))
            revision = json.loads(pod.split).get("revision", "") if pod.split else ""
            candidate = next((p for p in self.pods.values() if p.revision == revision), None)
            theirs = self.behaviours.get(candidate.version, Behaviour()) if candidate else Behaviour()
            pod.owed += to_candidate * theirs.bad_rate
            bad = int(pod.owed)
            pod.owed -= bad
            left = round(to_candidate * theirs.refused_rate)
            counts["c_bad"] += bad
            counts["c_error"] += left
            counts["c_ok"] += to_candidate - bad - left
            own = self.behaviours.get(pod.version, Behaviour())
            own_bad = round((requests - to_candidate) * own.bad_rate)
            refused = round((requests - to_candidate) * own.refused_rate)
            counts["refused"] += refused
            counts["bad"] += own_bad
            counts["ok"] += requests - to_candidate - own_bad - refused
            pod.serve("candidate", theirs.service, to_candidate - bad - left)
            pod.serve("stable", own.service, requests - to_candidate - own_bad - refused)
            pod.predict("candidate", theirs.classes, to_candidate - bad - left)
            pod.predict("stable", own.classes, requests - to_candidate - own_bad - refused)
            pod.copy(requests - to_candidate, theirs, counts)

    # The Cluster port

    async def observe(self, key: Key) -> Observation:
        going = self.owner is None or "deletionTimestamp" in self.owner["metadata"]
        seen = self._other_services(going)
        if self.owner is None:
            return Observation(owner=None, world=World(services=seen))
        children: dict[Kind, list[Object]] = {}
        for (kind, _), child in self.children.items():
            children.setdefault(kind, []).append(child)
        world = replace(self._world(), services=seen)
        services = [self.services[service.name] for service in seen]
        return Observation(owner={**self.owner}, children=children, world=world, services=services)

    def _other_services(self, going: bool) -> tuple[OtherService, ...]:
        wanted = "" if going else other_services.wanted(self.owner)
        return tuple(
            other_services.other_service(body, self.key.name)
            for name, body in self.services.items()
            if name == wanted or other_services.is_taken(body, self.key.name)
        )

    def _world(self) -> World:
        service = self.children.get((Kind("v1", "Service"), self.key.name))
        return World(
            revisions={r.hash: r for r in map(revision, self._of("ControllerRevision"))},
            workloads={
                d["metadata"]["labels"][REVISION_LABEL]: Workload(
                    d["metadata"]["labels"][REVISION_LABEL], d["spec"]["replicas"], fault=self.quota
                )
                for d in self._of("Deployment")
            },
            pods=tuple(
                Pod(
                    name=p.name,
                    revision=p.revision,
                    ready=self.ready(p),
                    split=p.split,
                    fault=self.behaviours.get(p.version, Behaviour()).fault,
                )
                for p in self.pods.values()
            ),
            selected=service["spec"]["selector"][REVISION_LABEL] if service else None,
            foreign=self.foreign,
        )

    def deployment(self, revision: str) -> Object:
        return self.children[DEPLOYMENT, f"{KEY.name}-{revision}"]

    def _of(self, kind: str) -> Iterable[Object]:
        return [child for (k, _), child in self.children.items() if k.kind == kind]

    def _next(self) -> str:
        self._version += 1
        return str(self._version)

    def _write(self, what: str) -> None:
        index = len(self.writes)
        if self.kill_before == index:
            raise Killed
        if self.conflict_at == index:
            self.conflict_at = None
            raise Conflict(what)
        self.writes.append(what)

    def _written(self) -> None:
        if self.kill_after == len(self.writes) - 1:
            raise Killed

    async def write_status(self, owner: Object, status: Object) -> Object:
        assert self.owner is not None
        if owner["metadata"]["resourceVersion"] != self.owner["metadata"]["resourceVersion"]:
            raise Conflict("status")
        self._write(f"status {status['phase']} {status['reason']}")
        self.owner["status"] = json.loads(json.dumps(status))
        self.owner["metadata"]["resourceVersion"] = self._next()
        self._written()
        return self.owner

    async def apply(self, body: Object) -> Object:
        kind, name = Kind(body["apiVersion"], body["kind"]), body["metadata"]["name"]
        if name in self.services:
            return self._apply_to_another(body, name)
        before = self.children.get((kind, name))
        after = json.loads(json.dumps(body))
        after["metadata"]["uid"] = before["metadata"]["uid"] if before else f"child-{self._next()}"
        if kind == DEPLOYMENT:
            after["spec"]["replicas"] = before["spec"]["replicas"] if before else 1
        self._write(f"apply {kind.kind} {name}")
        if kind.kind == "ControllerRevision" and before is not None:
            assert after["data"] == before["data"], "a ControllerRevision's data never changes"
        self.children[kind, name] = after
        self._written()
        return after

    def _apply_to_another(self, body: Object, name: str) -> Object:
        """What is applied no more goes; the rest of the Service stays its owner's."""
        self._write(f"apply Service {name}")
        service = copy.deepcopy(self.services[name])
        for part in ("labels", "annotations"):
            others = {k: v for k, v in service["metadata"].get(part, {}).items() if "modelramp.dev/" not in k}
            service["metadata"][part] = others | body["metadata"].get(part, {})
        service["spec"]["selector"] = body["spec"]["selector"]
        service["spec"]["ports"][0] |= body["spec"]["ports"][0]
        self.services[name] = service
        self._written()
        return service

    async def scale(self, kind: Kind, key: Key, replicas: int) -> None:
        self._write(f"scale {key.name} {replicas}")
        child = self.children[kind, key.name]
        self.children[kind, key.name] = {**child, "spec": {**child["spec"], "replicas": replicas}}
        self._written()

    async def annotate_pod(self, key: Key, annotation: str, value: str) -> None:
        self._write(f"annotate {key.name} {value}")
        if key.name in self.pods:
            self.pods[key.name].split = value
        self._written()

    async def delete(self, kind: Kind, key: Key, uid: str) -> None:
        self._write(f"delete {kind.kind} {key.name}")
        if kind == DEPLOYMENT:
            service = self.children.get((Kind("v1", "Service"), self.key.name))
            selected = service["spec"]["selector"][REVISION_LABEL] if service else None
            assert not key.name.endswith(str(selected)), "what the Service selects is never deleted"
        self.children.pop((kind, key.name), None)
        self._written()

    async def emit(self, owner: Object, event: Event) -> None:
        self.events.append(event)

    # The Metrics port

    async def read(self, namespace: str, pods: Iterable[Pod]) -> Mapping[str, PodMetrics]:
        if self.deaf:
            return {}
        return {pod.name: self._metrics(self.pods[pod.name]) for pod in pods if pod.name in self.pods}

    def _metrics(self, pod: SimPod) -> PodMetrics:
        splits = {
            salt: SplitCounts(
                candidate_ok=c["c_ok"],
                candidate_bad=c["c_bad"],
                candidate_error=c["c_error"],
                shadow_ok=c["s_ok"],
                shadow_bad=c["s_bad"],
                agree=c["agree"],
                disagree=c["disagree"],
                stable_ok=c["ok"],
                stable_bad=c["bad"],
                stable_refused=c["refused"],
                candidate_service=pod.histogram(salt, "candidate"),
                shadow_service=pod.histogram(salt, "shadow"),
                stable_service=pod.histogram(salt, "stable"),
                candidate_classes=pod.classes(salt, "candidate"),
                stable_classes=pod.classes(salt, "stable"),
            )
            for salt, c in pod.splits.items()
        }
        many_at_once = (100.0, 10_000.0)
        bad_sum, bad_squares = many_at_once if self.clustered else (0.0, 0.0)
        failed_sum, failed_squares = many_at_once if self.clustered or self.bursts else (0.0, 0.0)
        return PodMetrics(
            split_version=pod.split_version,
            generation=pod.generation,
            weight=pod.weight,
            shadow=pod.shadow if self.copying else None,
            started=pod.born,
            splits=splits,
            bad_seconds=100.0,
            bad_sum=bad_sum,
            bad_squares=bad_squares,
            failed_sum=failed_sum,
            failed_squares=failed_squares,
        )

    # The Registry port

    def registry_state(self) -> tuple[object, ...]:
        """What its answers to a search, and about versions, come from."""
        return self.registry_up, self.registered, self.models_born, {**self.aliases}, {*self.deleted_versions}

    async def search(self) -> Sequence[RegisteredModel]:
        if not self.registry_up:
            raise RegistryError("connection refused")
        return [RegisteredModel("digits", dict(self.aliases), self.models_born)] if self.registered else []

    async def version(self, name: str, version: int) -> ModelVersion | None:
        created = self.models_born + version
        if version in self.deleted_versions:
            return None
        return ModelVersion("default", name, version, f"run-{version}", f"models:/m-{version}", created)

    async def versions(self, wanted: Collection[tuple[str, int]]) -> Sequence[ModelVersion]:
        return []

    async def metrics(self, name: str, version: int) -> Mapping[str, float]:
        return self._told(self.metrics_of, "metrics", version)

    async def tags(self, name: str, version: int) -> Mapping[str, str]:
        return self._told(self.tags_of, "tags", version)

    async def marked(self, tag: str) -> Mapping[tuple[str, int], Mapping[str, str]]:
        self.asked.append(f"marked {tag}")
        if not self.registry_up:
            raise RegistryError("connection refused")
        return {("digits", version): dict(tags) for version, tags in self.tags_of.items() if tag in tags}

    async def set_tags(self, name: str, version: int, tags: Mapping[str, str | None]) -> None:
        for tag, value in tags.items():
            if not self.registry_writable:
                raise RegistryError("no rights")
            self.tag_writes.append(f"{version} {tag} {value}")
            of = self.tags_of.setdefault(version, {})
            of.pop(tag, None)
            if value is not None:
                of[tag] = value

    def _told(self, known: dict[int, dict[str, Value]], what: str, version: int) -> dict[str, Value]:
        self.asked.append(f"{what} {version}")
        if not self.registry_up:
            raise RegistryError("connection refused")
        return dict(known.get(version, {}))

    # The Prober port

    async def inputs(self, namespace: str, pod: Pod, model: str) -> tuple[Tensor, ...]:
        return self._behaviour("inputs", pod).inputs

    async def example(self, namespace: str, pod: Pod, model: str) -> Mapping[str, Any] | None:
        return self._behaviour("example", pod).example

    async def infer(self, namespace: str, pod: Pod, body: Mapping[str, Any], seconds: float) -> Inference:
        return self._behaviour(f"infer {json.dumps(body)}", pod).answer

    def _behaviour(self, what: str, pod: Pod) -> Behaviour:
        version = self.pods[pod.name].version
        self.asked.append(f"{what} {version}")
        if not self.pods_reachable:
            raise ProbeError("connection refused")
        assert pod.ready, "only ready pods are asked"
        return self.behaviours.get(version, Behaviour())

    # The Clock port

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time + self.skew, UTC)

    def monotonic(self) -> float:
        return self.time


def revision(body: Object) -> Revision:
    annotations = body["metadata"].get("annotations", {})
    data, model = body["data"], body["data"]["model"]
    rejected = annotations.get(STATE_ANNOTATION) == "rejected"
    return Revision(
        hash=data["hash"],
        model=ModelVersion(
            model["registry"], model["name"], model["version"], model["runId"], model["source"], model["created"]
        ),
        template=data["template"],
        ordinal=body["revision"],
        rejected=annotations[REASON_ANNOTATION] if rejected else "",
        rejected_message=annotations[MESSAGE_ANNOTATION] if rejected else "",
    )


class Operator:
    """One life of the operator's process: what it holds in memory is lost with it."""

    def __init__(
        self,
        world: SimulatedWorld,
        observers: Sequence[Observer] = (),
        fleet: Fleet | None = None,
        configs: Mapping[str, RegistryConfig] | None = None,
        write_back: WriteBack | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.world = world
        self.approvals = Approvals(self._wake)
        self._woken, self._due = True, 0.0
        self._seen: Observation | None = None
        self._told: Any = None
        configs = configs or {"default": RegistryConfig("http://mlflow")}
        self.registries = Registries(configs, dict.fromkeys(configs, world), world, self._wake)
        config = EngineConfig("server:1")
        self.reconciler = Reconciler(
            world, world, world, self.registries, world, config, observers, fleet, write_back, self.approvals, sources
        )

    async def poll(self) -> None:
        """Asks the registry if it may answer otherwise than last time, or is wanted for something else."""
        told = self.world.registry_state(), dict(self.registries._wanted)
        if told != self._told:
            self._told = told
            for name in self.registries._configs:
                await self.registries._poll(name, 0.0)

    async def step(self) -> float | None:
        """One pass, with a registry poll before it; a conflict is a pass that did nothing."""
        await self.poll()
        return await self._pass()

    async def step_if_due(self) -> None:
        """As the queue does it: a pass if what is watched has changed, if somebody called, or at the time asked for."""
        await self.poll()
        seen = await self.world.observe(self.world.key)
        if self._woken or self.world.time >= self._due or seen != self._seen:
            owner = seen.owner and {**seen.owner, "metadata": copy.deepcopy(seen.owner["metadata"])}
            self._woken, self._seen = False, replace(seen, owner=owner)
            after = await self._pass()
            self._due = math.inf if after is None else self.world.time + after

    async def _pass(self) -> float | None:
        try:
            return await self.reconciler.reconcile(self.world.key)
        except Conflict:
            return 0.0

    def _wake(self, key: Key) -> None:
        self._woken = True


async def run(world: SimulatedWorld, operator: Operator, seconds: float, tick: float = 0.5) -> None:
    """Ticks for so long, and passes where they are due."""
    end = world.time + seconds
    while world.time < end:
        await operator.step_if_due()
        world.tick(tick)


async def until(
    world: SimulatedWorld, operator: Operator, done: Callable[[dict[str, Any]], bool], seconds: float = 300
) -> dict[str, Any]:
    """Passes and ticks until a status is reached, within so much of the world's time; that status."""
    end = world.time + seconds
    while not done(world.status):
        assert world.time < end, f"never came to it: {world.status}"
        await run(world, operator, 0.5)
    return world.status


def serves(version: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: bool(status.get("phase") == "Stable" and status["stable"]["version"] == version)


async def serving(wanted: dict[str, Any]) -> tuple[SimulatedWorld, Operator]:
    """Version 1 serves; then the alias names version 2."""
    world = SimulatedWorld(wanted)
    operator = Operator(world)
    await until(world, operator, lambda status: status.get("stable") is not None)
    world.aliases["prod"] = 2
    return world, operator


def spec(**rollout: Any) -> dict[str, Any]:
    """SPEC with some of its rollout changed."""
    changed = copy.deepcopy(SPEC)
    changed["rollout"].update(rollout)
    return changed


SPEC: dict[str, Any] = {
    "model": {"name": "digits", "alias": "prod"},
    "scaling": {"replicas": 2},
    "rollout": {
        "steps": [{"weight": 10, "hold": "10s"}, {"weight": 50, "hold": "10s"}],
        "bake": "5s",
        "progressDeadline": "1m",
        "scaleDownDelay": "10s",
    },
}
