"""One pass: observe, ask, decide, persist, tell, project, apply. The same for every object, in every phase.

Intent is on disk before anything acts on it, so a pass may be cut off anywhere; the next one goes on from what it sees.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from pydantic import ValidationError

from modelramp.api import GROUP
from modelramp.api.spec import Spec
from modelramp.api.status import Phase, Status
from modelramp.desired.marks import marks
from modelramp.desired.meta import ADOPT_ANNOTATION, Owner
from modelramp.desired.project import project
from modelramp.desired.router import Router
from modelramp.desired.takeover import returned
from modelramp.desired.template import Rendering, pod_template
from modelramp.domain import gates, queries
from modelramp.domain.decide import decide
from modelramp.domain.revision import identity
from modelramp.domain.snapshot import Decision, Policy, Snapshot, Target
from modelramp.domain.world import Command, Event, Resolution, Resolved, Revision, World
from modelramp.engine.approvals import Approvals
from modelramp.engine.carry_out import Carrier
from modelramp.engine.fleet import Fleet
from modelramp.engine.inquiry import Inquiry
from modelramp.engine.registries import Registries
from modelramp.engine.sources import Sources
from modelramp.engine.writeback import WriteBack
from modelramp.ports import Clock, Cluster, Key, Metrics, Object, Observation, Observer, Prober
from modelramp.routers import router_of

logger = logging.getLogger(__name__)

VERBS_PREFIX = f"{GROUP}/"
ANSWER_SECONDS = 5.0  # in which a registry answers as a rule, and nothing is said of a new object


@dataclass(frozen=True)
class EngineConfig:
    """What the administrator set. Times in seconds."""

    server_image: str
    traffic_ttl: float = 120.0
    look_interval: float = 5.0

    @property
    def policy(self) -> Policy:
        return Policy(timedelta(seconds=self.traffic_ttl), timedelta(seconds=self.look_interval))


class Reconciler:
    """Brings one ModelDeployment a step further each time it is called."""

    def __init__(
        self,
        cluster: Cluster,
        metrics: Metrics,
        prober: Prober,
        registries: Registries,
        clock: Clock,
        config: EngineConfig,
        observers: Sequence[Observer] = (),
        fleet: Fleet | None = None,
        write_back: WriteBack | None = None,
        approvals: Approvals | None = None,
        sources: Sources | None = None,
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._registries = registries
        self._inquiry = Inquiry(registries, prober)
        self._sources = sources or Sources({}, {})
        self._clock = clock
        self._config = config
        self._fleet = fleet or Fleet(clock)
        self._write_back = write_back
        self._approvals = approvals or Approvals()
        self._observers = [*observers, self._approvals]
        self._carrier = Carrier(cluster)
        self._uids: dict[Key, str] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Seconds after which to look again; None: when something happens. Raises Conflict, ClusterError."""
        seen = await self._cluster.observe(key)
        if seen.owner is None or seen.owner["metadata"].get("deletionTimestamp"):
            await self._carrier.give_back(returned(key.namespace, seen.world.services))
            self._forget(key)
            return None
        try:
            spec = Spec.model_validate(seen.owner["spec"])
        except ValidationError as error:
            self._fleet.forget(key)
            await self._cluster.emit(seen.owner, Event("Warning", "InvalidSpec", summary(error)))
            return None
        new = key not in self._uids and read_status(seen.owner) == Status()
        self._uids[key] = seen.owner["metadata"]["uid"]
        if new and self._registries.resolve(key, spec.model) is None:
            return ANSWER_SECONDS
        return await self._pass(key, seen, seen.owner, spec)

    async def _pass(self, key: Key, seen: Observation, body: Object, spec: Spec) -> float | None:
        owner = Owner(key.namespace, key.name, body["metadata"]["uid"])
        status = read_status(body)
        resolution = self._registries.resolve(key, spec.model)
        revisions = self._revisions(owner, spec, resolution, seen.world)
        router = router_of(spec.traffic.chosen)
        world = await self._with_metrics(key, status, seen.world, router)
        snapshot = self._snapshot(body, spec, status, world, resolution, router)
        snapshot = replace(snapshot, approval=self._approvals.offered(key))
        findings = await self._inquiry.ask(key.namespace, gates.questions(snapshot))
        findings = replace(findings, queries=await self._sources.ask(key, queries.questions(snapshot)))
        decision = self._decide(key, replace(snapshot, findings=findings))
        await self._persist(body, status, decision)
        await self._tell(key, body, status, decision)
        if self._write_back is not None:
            self._write_back.note(key, marks(decision.status, revisions))
        ttl = self._config.policy.traffic_ttl
        desired = project(owner, spec, decision.status, revisions, world, ttl, router)
        await self._carrier.carry_out(owner, desired, seen)
        return decision.requeue_after.total_seconds() if decision.requeue_after is not None else None

    def _decide(self, key: Key, snapshot: Snapshot) -> Decision:
        """Nothing is awaited between asking for a place and taking it: no two objects get the same."""
        self._fleet.note(key, snapshot.status)
        decision = decide(replace(snapshot, standing=self._fleet.standing(key, snapshot.status)))
        self._fleet.note(key, decision.status)
        return decision

    def _snapshot(
        self, body: Object, spec: Spec, status: Status, world: World, resolution: Resolution, router: Router
    ) -> Snapshot:
        metadata = body["metadata"]
        target = None
        if isinstance(resolution, Resolved):
            target = Target(revision_of(resolution, spec), resolution.model.version)
        return Snapshot(
            now=self._clock.now(),
            uid=metadata["uid"],
            generation=metadata["generation"],
            spec=spec,
            status=status,
            world=world,
            resolution=resolution,
            target=target,
            commands=commands(metadata.get("annotations", {})),
            policy=self._config.policy,
            adopts=metadata.get("annotations", {}).get(ADOPT_ANNOTATION, ""),
            router=router,
        )

    async def _persist(self, body: Object, before: Status, decision: Decision) -> None:
        if decision.status != before:
            written = decision.status.model_dump(mode="json", by_alias=True, exclude_none=True)
            await self._cluster.write_status(body, written)

    async def _tell(self, key: Key, body: Object, before: Status, decision: Decision) -> None:
        for observer in self._observers:
            observer.decided(key, before, decision)
        for event in decision.events:
            await self._cluster.emit(body, event)

    def _revisions(self, owner: Owner, spec: Spec, resolution: Resolution, world: World) -> Mapping[str, Revision]:
        """The frozen revisions, and the target if it is new."""
        if not isinstance(resolution, Resolved):
            return world.revisions
        name = revision_of(resolution, spec)
        if name in world.revisions:
            return world.revisions
        rendering = Rendering(self._config.server_image, self._registries.pod_uri(spec.model.registry))
        model, credentials = resolution.model, spec.model.credentials_secret_ref
        template = pod_template(owner, name, model, spec.server, credentials, rendering)
        ordinal = 1 + max((r.ordinal for r in world.revisions.values()), default=0)
        return {**world.revisions, name: Revision(name, model, template, ordinal)}

    async def _with_metrics(self, key: Key, status: Status, world: World, router: Router) -> World:
        """While a candidate may have traffic, and just after it got all of it, what the pods count."""
        ramping = status.step is not None and status.phase not in (Phase.STABLE, Phase.PENDING)
        if status.stable is None or not (ramping or status.guard):
            return world
        pods = [pod for revision in router.counting(status) for pod in world.pods_of(revision) if pod.ready]
        metrics = await self._metrics.read(key.namespace, pods)
        return replace(world, pods=tuple(replace(pod, metrics=metrics.get(pod.name)) for pod in world.pods))

    def _forget(self, key: Key) -> None:
        for observer in self._observers:
            observer.gone(key)
        self._registries.forget(key)
        self._fleet.forget(key)
        if self._write_back is not None:
            self._write_back.gone(key)
        uid = self._uids.pop(key, None)
        if uid is not None:
            self._carrier.forget(uid)


def revision_of(resolution: Resolved, spec: Spec) -> str:
    return identity(resolution.model, spec.server, spec.model.credentials_secret_ref)


def read_status(body: Object) -> Status:
    """The status as persisted. One that this release cannot read counts as lost: children tell what serves."""
    try:
        return Status.model_validate(body.get("status") or {})
    except ValidationError as error:
        logger.warning("status cannot be read, taking it as lost: %s", summary(error))
        return Status()


def commands(annotations: Mapping[str, str]) -> tuple[Command, ...]:
    return tuple(
        Command(name.removeprefix(VERBS_PREFIX), value)
        for name, value in sorted(annotations.items())
        if name.startswith(VERBS_PREFIX) and name != ADOPT_ANNOTATION
    )


def summary(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
