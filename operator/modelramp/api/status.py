"""``status`` of a ModelDeployment: the program counter of its rollout, and what people read."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field, WithJsonSchema

from modelramp.api.base import ApiModel, Duration, Time
from modelramp.api.routing import RouterKind

MAX_HISTORY = 20
MAX_REJECTED = 10
MAX_FORMER = 5


class Phase(StrEnum):
    PENDING = "Pending"
    STABLE = "Stable"
    GATING = "Gating"
    RAMPING = "Ramping"
    PAUSED = "Paused"
    PROMOTING = "Promoting"
    ABORTING = "Aborting"


class Cause(StrEnum):
    """Why a candidate exists: Git changed the spec, somebody moved the alias, or commanded a rollback."""

    SPEC = "Spec"
    ALIAS = "Alias"
    COMMAND = "Command"


class Verdict(StrEnum):
    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


class Condition(ApiModel):
    """metav1.Condition."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: Time
    observed_generation: int | None = None


class RegistryStatus(ApiModel):
    resolved_version: int | None = None
    unresolved: str = Field("", description="Why the registry has nothing to serve, where it says so.")
    last_success: Time | None = Field(None, description="Last answer of the registry before the present error.")
    error: str | None = None


class StableStatus(ApiModel):
    revision: str
    version: int
    since: Time
    down_since: Time | None = Field(None, description="Since when none of its pods has been ready.")
    floor: int = Field(0, description="Pods at least for a while, under an autoscaler: it took over from so many.")


class FormerStatus(ApiModel):
    """A revision that was stable: inside the rollback window it may be again without steps."""

    revision: str
    version: int
    demoted_at: Time


class GuardStatus(ApiModel):
    """Just after a promotion: the former stable's pods are still warm, and what is stable now is watched."""

    former: str
    former_version: int
    cause: Cause = Field(description="Of the rollout that was promoted.")
    until: Time
    looked_at: Time | None = None
    state: Annotated[str, WithJsonSchema({"type": "string"})] = Field("", description="The test's own memory.")


class AdoptedService(ApiModel):
    """A Service that existed before and is taken over, with its name and its clients."""

    name: str
    since: Time | None = Field(None, description="Since when; absent: not yet.")
    reason: str = Field("", description="Why not yet.")
    message: str = ""
    contested_at: Time | None = Field(None, description="When somebody else last changed its selector.")


class AbortStatus(ApiModel):
    """Why a candidate is being taken back, and whether it may be tried again."""

    reason: str
    message: str
    reject: bool


class PauseStatus(ApiModel):
    """Why a rollout waits for a person or for the end of a pause."""

    reason: str
    message: str
    since: Time | None = None


class GateState(StrEnum):
    PASSED = "Passed"
    FAILED = "Failed"
    WAITING = "Waiting"


class GateStatus(ApiModel):
    """What is known of one gate. One that has passed is not asked again in the same attempt."""

    name: str
    state: GateState
    reason: str = ""
    message: str = ""
    hash: str = Field("", description="Of what the gate asks: an edited gate is asked again.")


class CandidateStatus(ApiModel):
    revision: str
    version: int
    attempt: int = 1
    cause: Cause
    started_at: Time
    waiting_since: Time | None = Field(None, description="From when the progress deadline counts.")
    floor: int = Field(0, description="Stable pods at least, under an autoscaler: they carry the whole load.")
    salt: str = Field("", description="Names the attempt in the pods' counters.")
    direct: bool = Field(False, description="A former stable: no steps and no analysis, but it must be ready.")
    unsplit: bool = Field(False, description="Stable's servers know no split: promoted directly after its gates.")
    whole: bool = Field(False, description="Stable is down: sized for the whole load.")
    idle: Duration = Field(timedelta(0), description="Time in pauses and suspension; it counts for no deadline.")
    held_since: Time | None = Field(None, description="Since when a gate or a freeze window holds it.")
    asked_at: Time | None = Field(None, description="When a gate last failed that is asked again.")
    obeyed: bool = Field(False, description="A person has commanded the promotion of this attempt.")
    unnamed_since: Time | None = Field(None, description="Since when nothing in the registry asks for it any more.")
    drift_accepted: float | None = Field(None, description="The distance that a person has let pass.")
    gates: list[GateStatus] = Field(default_factory=list)
    pause: PauseStatus | None = None
    abort: AbortStatus | None = None


class StepStatus(ApiModel):
    index: int = 0
    entered_at: Time
    weight: int = Field(0, description="Weight that this step wants.")
    shadow: int = Field(0, description="Percent of the requests that this step wants copied.")
    achieved_weight: float | None = Field(None, description="Share measured from the pods' counters.")
    accepted_since: Time | None = Field(None, description="Since when Gateways have accepted it; proxies follow.")
    in_force_since: Time | None = Field(None, description="Since when all who share requests out act on the weight.")
    counted_requests: int = Field(0, description="Requests counted since then.")
    counted_candidate: int = Field(0, description="Those among them that the candidate answered.")


class TrafficStatus(ApiModel):
    """The split as last written: see docs/contract.md."""

    router: RouterKind = Field(RouterKind.RELAY, description="By which way.")
    generation: int = 0
    weight: int = 0
    shadow: int = Field(0, description="Percent of the requests of which the candidate gets a copy.")
    weight_generation: int = Field(0, description="Generation that first carried the present weight.")
    renewed_at: Time | None = None

    @property
    def live(self) -> bool:
        """Whether any request, or a copy of one, goes to the candidate."""
        return self.weight > 0 or self.shadow > 0


class EvidenceStatus(ApiModel):
    metric: str
    verdict: Verdict
    message: str = ""
    requests: int = 0
    bad: int = 0
    rate: float | None = None
    stable_requests: int = 0
    stable_bad: int = 0
    stable_rate: float | None = None
    requests_needed: int | None = Field(None, description="Further candidate requests that a Pass needs.")
    seconds_needed: int | None = Field(None, description="The time they take at the present rate.")
    threshold_seconds: float | None = Field(None, description="Latency: an answer that takes longer is slow.")
    distance: float | None = Field(None, description="Drift: how far the candidate's predictions are from stable's.")
    looked_at: Time | None = None
    state: Annotated[str, WithJsonSchema({"type": "string"})] = Field("", description="The test's own memory.")


class Draining(ApiModel):
    """A former stable revision whose pods hand everything over until they are removed."""

    revision: str
    until: Time
    generation: int = Field(0, description="Generation of the hand-over.")


class Rejected(ApiModel):
    revision: str
    version: int
    reason: str
    message: str
    cause: Cause = Cause.ALIAS
    attempt: int = 1
    at: Time


class BackOff(ApiModel):
    """A candidate that could not be started for reasons that are not its own: when it is tried again."""

    revision: str
    failures: int
    until: Time
    message: str = ""


class HistoryEntry(ApiModel):
    at: Time
    action: str
    reason: str
    message: str
    revision: str
    version: int
    attempt: int = 1


class Status(ApiModel):
    """Observed state of a ModelDeployment."""

    observed_generation: int = -1
    registry: RegistryStatus = RegistryStatus()
    stable: StableStatus | None = None
    former: list[FormerStatus] = Field(default_factory=list)
    guard: GuardStatus | None = None
    service: AdoptedService | None = None
    suspended_since: Time | None = None
    candidate: CandidateStatus | None = None
    phase: Phase = Phase.PENDING
    reason: str = Field("", description="Why it stands where it stands, in one word.")
    message: str = Field("", description="The same in a sentence.")
    step: StepStatus | None = None
    traffic: TrafficStatus = TrafficStatus()
    evidence: list[EvidenceStatus] = Field(default_factory=list)
    queued_at: Time | None = Field(None, description="Since when a rollout has waited for its turn.")
    draining: list[Draining] = Field(default_factory=list)
    back_off: BackOff | None = None
    rejected: list[Rejected] = Field(default_factory=list)
    history: list[HistoryEntry] = Field(default_factory=list)
    commands: dict[str, str] = Field(default_factory=dict, description="Last command taken, by verb.")
    replicas: int = 0
    selector: str = ""
    conditions: list[Condition] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
