"""What the operator has seen of the world in one pass: the input of decide(), free of any client's types."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model. ``(registry, name, version, created, source)`` is its identity."""

    registry: str
    name: str
    version: int
    run_id: str
    source: str
    created: int  # milliseconds since the epoch, as the registry tells it
    digest: str = ""


@dataclass(frozen=True)
class Resolved:
    """The registry knows the model, and the alias (or number) names this version."""

    model: ModelVersion


@dataclass(frozen=True)
class Unresolved:
    """The registry answered, and there is nothing to serve: no such model, alias or version, or not for us."""

    reason: str  # ModelNotFound | AliasNotFound | VersionNotFound | NotAllowed | RegistryNotConfigured
    message: str


@dataclass(frozen=True)
class Unreachable:
    """The registry does not answer, or answers rubbish."""

    message: str


Resolution = Resolved | Unresolved | Unreachable | None  # None: not asked yet


@dataclass(frozen=True)
class Fault:
    """Something that keeps a pod from serving, and whose fault it is."""

    reason: str
    message: str
    models_own: bool


@dataclass(frozen=True)
class SplitCounts:
    """Cumulative counters of one stable pod for one salt (attempt); see docs/contract.md."""

    candidate_ok: int = 0
    candidate_bad: int = 0  # bad and slow
    candidate_neutral: int = 0
    candidate_error: int = 0
    candidate_skipped: int = 0
    shadow_ok: int = 0  # copies: nobody was given the candidate's answer
    shadow_bad: int = 0
    shadow_error: int = 0
    shadow_skipped: int = 0
    agree: int = 0  # ok answers to copies, compared with stable's
    disagree: int = 0
    incomparable: int = 0
    stable_ok: int = 0
    stable_bad: int = 0
    stable_refused: int = 0  # with 503: full, loading, short of memory
    candidate_service: Mapping[float, int] = field(default_factory=dict)
    shadow_service: Mapping[float, int] = field(default_factory=dict)
    stable_service: Mapping[float, int] = field(default_factory=dict)
    """Histograms of service time: ok answers that took at most so many seconds; at infinity all of them."""
    candidate_classes: Mapping[str, int] = field(default_factory=dict)
    stable_classes: Mapping[str, int] = field(default_factory=dict)
    """Ok answers by the class they predict."""

    def refusals_as_bad(self) -> Self:
        return replace(self, stable_bad=self.stable_bad + self.stable_refused, stable_refused=0)


@dataclass(frozen=True)
class PodMetrics:
    """What one pod's /metrics says. Counters are cumulative since its server started at ``started``."""

    split_version: int = 1  # the newest format of the split that it reads; 0: none
    generation: int = 0
    weight: int = 0
    shadow: int | None = None  # percent copied; None: its image copies nothing
    started: float = 0.0  # process_start_time_seconds
    splits: Mapping[str, SplitCounts] = field(default_factory=dict)  # by salt; "" is no split
    bad_seconds: float = 0.0
    bad_sum: float = 0.0
    bad_squares: float = 0.0
    failed_sum: float = 0.0  # of what is bad or refused
    failed_squares: float = 0.0

    def refusals_as_bad(self) -> Self:
        """For where nobody answers in this pod's place: what it refuses has failed."""
        splits = {salt: counts.refusals_as_bad() for salt, counts in self.splits.items()}
        return replace(self, splits=splits, bad_sum=self.failed_sum, bad_squares=self.failed_squares)


@dataclass(frozen=True)
class Pod:
    name: str
    revision: str
    ready: bool = False
    deleting: bool = False
    ip: str | None = None
    split: str = ""  # the annotation as it stands
    operator_key: str = ""  # the annotation that tells the pod by what key it knows the operator
    fault: Fault | None = None
    restarts: int = 0  # of its server
    metrics: PodMetrics | None = None  # None: not scraped, or did not answer


@dataclass(frozen=True)
class Workload:
    """One revision's Deployment."""

    revision: str
    replicas: int
    observed: bool = True  # the Deployment controller has seen the newest spec
    fault: Fault | None = None  # ReplicaFailure: quota, admission


@dataclass(frozen=True)
class Revision:
    """An immutable thing that can serve, as frozen in a ControllerRevision.

    ``template`` is the rendered pod template as it was first applied; ``ordinal`` the ControllerRevision's number.
    """

    hash: str
    model: ModelVersion
    template: Mapping[str, Any]
    ordinal: int = 0
    rejected: str = ""  # reason, if rejected
    rejected_message: str = ""


@dataclass(frozen=True)
class ServicePort:
    port: int
    protocol: str
    target: int | str
    application: str = ""  # appProtocol


@dataclass(frozen=True)
class OtherService:
    """A Service that is no child: one that is to be taken over, or has been."""

    name: str
    uid: str
    type: str
    headless: bool
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...]
    controller: str = ""  # what owns it, as kind and name
    holder: str = ""  # the ModelDeployment that has taken it over
    taken: bool = False  # that is this one
    before: str = ""  # what it was before, as recorded on it
    selected: str = ""  # the revision that it selects, if that is one of ours
    manager: str = ""  # the field manager, other than the operator, that owns the selector


@dataclass(frozen=True)
class World:
    """The children as observed. ``selected`` is the revision that the main Service selects."""

    revisions: Mapping[str, Revision] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    selected: str | None = None
    services: tuple[OtherService, ...] = ()
    foreign: str = ""  # what stands where a child of ours should, and is somebody else's
    routes: tuple[Mapping[str, Any], ...] = ()  # the routers' own objects, as the API server has them
    unusable: Mapping[str, str] = field(default_factory=dict)  # kinds that no route can be made of, and why
    endpoints: Mapping[str, int] = field(default_factory=dict)  # ready ones of each revision's Service, where asked

    def pods_of(self, revision: str | None) -> tuple[Pod, ...]:
        """Pods of a revision that are not on their way out."""
        return tuple(p for p in self.pods if p.revision == revision and not p.deleting)

    def ready(self, revision: str | None) -> int:
        return sum(p.ready for p in self.pods_of(revision))

    def fault(self, revision: str) -> Fault | None:
        """The worst fault of a revision: its model's own before the infrastructure's."""
        faults = [p.fault for p in self.pods_of(revision) if p.fault]
        workload = self.workloads.get(revision)
        if workload and workload.fault:
            faults.append(workload.fault)
        return min(faults, key=lambda f: not f.models_own, default=None)


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event to be."""

    type: str  # Normal | Warning
    reason: str
    message: str


@dataclass(frozen=True)
class Command:
    """``modelramp.dev/<verb>: <revision>#<nonce>``"""

    verb: str
    value: str

    @property
    def revision(self) -> str:
        return self.value.partition("#")[0]


@dataclass(frozen=True)
class Approval:
    """What another system approves, by a signed request: one attempt of one revision, at the step of that name."""

    name: str
    revision: str
    attempt: int
