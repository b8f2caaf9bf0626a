"""What the engine needs of the outside world. Adapters fulfil these; tests simulate them.

Objects travel as plain dicts in the API server's JSON form.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from modelramp.api.status import Status
from modelramp.domain.findings import Inference, Tensor
from modelramp.domain.snapshot import Decision
from modelramp.domain.world import Event, ModelVersion, Pod, PodMetrics, World
from modelramp.routers import KINDS

Object = dict[str, Any]


class Key(NamedTuple):
    """Names one ModelDeployment."""

    namespace: str
    name: str


class Kind(NamedTuple):
    api_version: str
    kind: str


CHILD_KINDS = (
    Kind("apps/v1", "ControllerRevision"),
    Kind("apps/v1", "Deployment"),
    Kind("v1", "Service"),
    Kind("autoscaling/v2", "HorizontalPodAutoscaler"),
    Kind("policy/v1", "PodDisruptionBudget"),
)
ROUTE_KINDS = tuple(Kind(route.api_version, route.kind) for route in KINDS)
"""Children too, of a router's own kinds: the cluster may not know them."""


class Conflict(Exception):
    """The object has changed since it was read (409). Read again and decide again."""


class ClusterError(Exception):
    """The API server refused or could not be reached. ``str(error)`` says what was tried and what it answered."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RegistryError(Exception):
    """The registry could not be reached, or its answer made no sense. ``str(error)`` fits a condition."""


@dataclass(frozen=True)
class Observation:
    """Everything read in one pass. ``owner`` is None when the ModelDeployment is gone."""

    owner: Object | None
    world: World = field(default_factory=World)
    children: Mapping[Kind, Sequence[Object]] = field(default_factory=dict)  # labelled modelramp.dev/name=<name>
    services: Sequence[Object] = ()  # no children, but to be taken over, or taken over; if the owner is gone, to return


class Cluster(Protocol):
    """Reads and writes of Kubernetes objects. Writes raise Conflict or ClusterError."""

    async def observe(self, key: Key) -> Observation: ...

    async def write_status(self, owner: Object, status: Object) -> Object:
        """Replaces the status of ``owner`` if its resourceVersion still stands; returns the object as stored."""
        ...

    async def apply(self, body: Object) -> Object:
        """Server-side apply with the operator's field manager, forced; returns the object as stored."""
        ...

    async def scale(self, kind: Kind, key: Key, replicas: int) -> None:
        """Sets the size through the /scale subresource."""
        ...

    async def annotate_pod(self, key: Key, annotation: str, value: str) -> None: ...

    async def delete(self, kind: Kind, key: Key, uid: str) -> None:
        """Deletes if the uid still matches (background propagation); gone already is fine."""
        ...

    async def emit(self, owner: Object, event: Event) -> None:
        """Records a Kubernetes Event; a repeated one is counted, not multiplied. Failures are logged."""
        ...


@dataclass(frozen=True)
class RegisteredModel:
    """What one search tells of a registered model."""

    name: str
    aliases: Mapping[str, int]
    created: int = 0  # milliseconds since the epoch


class Registry(Protocol):
    """One configured registry. All calls raise RegistryError."""

    async def search(self) -> Sequence[RegisteredModel]:
        """All registered models with their aliases, in as few requests as there are pages."""
        ...

    async def version(self, name: str, version: int) -> ModelVersion | None:
        """One version, or None if the registry has none such."""
        ...

    async def versions(self, wanted: Collection[tuple[str, int]]) -> Sequence[ModelVersion]:
        """Of versions by model and number, those that few requests can tell; any other is to be asked for alone."""
        ...

    async def metrics(self, name: str, version: int) -> Mapping[str, float]:
        """The metrics of the run that made a version; none if there is no such run."""
        ...

    async def tags(self, name: str, version: int) -> Mapping[str, str]:
        """A version's tags as they stand now; none if there is no such version."""
        ...

    async def marked(self, tag: str) -> Mapping[tuple[str, int], Mapping[str, str]]:
        """The tags of all versions that have this one, by model and number."""
        ...

    async def set_tags(self, name: str, version: int, tags: Mapping[str, str | None]) -> None:
        """Sets a version's tags one after the other, in their order; None removes one."""
        ...


class Metrics(Protocol):
    async def read(self, namespace: str, pods: Iterable[Pod]) -> Mapping[str, PodMetrics]:
        """What each pod's /metrics says, by pod name; pods that do not answer are absent."""
        ...


class ProbeError(Exception):
    """A pod could not be asked, or something else answered for it. That says nothing about its model."""


class Prober(Protocol):
    """Asks one pod of a model by name (docs/contract.md). All calls raise ProbeError."""

    async def inputs(self, namespace: str, pod: Pod, model: str) -> tuple[Tensor, ...]:
        """What the model accepts, as the pod serves it."""
        ...

    async def example(self, namespace: str, pod: Pod, model: str) -> Mapping[str, Any] | None:
        """The input example logged with the model, as a body for ``infer``; None if it has none."""
        ...

    async def infer(self, namespace: str, pod: Pod, body: Mapping[str, Any], seconds: float) -> Inference:
        """One answer of the pod's own model, neither relayed nor counted as traffic; ``seconds`` is its budget."""
        ...


class QueryError(Exception):
    """There is no single number in the answer, or no answer. ``str(error)`` fits the evidence."""


class Queries(Protocol):
    """One configured Prometheus server."""

    async def value(self, query: str) -> float:
        """The value now of a query that has one, a finite number. Raises QueryError."""
        ...


class Observer(Protocol):
    """Hears what was decided, once that is persisted. Neither waits nor raises."""

    def decided(self, key: Key, before: Status, decision: Decision) -> None: ...

    def gone(self, key: Key) -> None:
        """The object does not exist any more."""
        ...


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall clock, in UTC; written into status."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow; for leases and time-outs."""
        ...
