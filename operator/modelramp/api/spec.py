"""``spec`` of a ModelDeployment: what the user wants. Defaults stand in the schema, but for ``spec.server``."""

from datetime import timedelta
from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from modelramp.api.base import ApiModel, Duration, OpenList, cel
from modelramp.api.drift import Drift
from modelramp.api.gates import Gates
from modelramp.api.queries import ASKED_ONCE, MOST_QUERIES, Query
from modelramp.api.routing import Routed
from modelramp.api.server import Server
from modelramp.api.shadow import Shadow

MAX_STEPS = 20


class OnFailure(StrEnum):
    ABORT = "Abort"
    PAUSE = "Pause"


class OnInconclusive(StrEnum):
    PAUSE = "Pause"
    PROMOTE = "Promote"
    ABORT = "Abort"


class ModelRef(ApiModel):
    """Which registered model, and by what name its version is known."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "has(self.alias) != has(self.version)",
                "set exactly one of spec.model.alias (follow it) and spec.model.version (pin it)",
            )
        )
    )

    name: str = Field(min_length=1, max_length=250, description="Name of the registered model.")
    alias: str | None = Field(None, min_length=1, max_length=250, description="Registry alias to follow.")
    version: int | None = Field(None, ge=1, description="Registry version to pin.")
    registry: str = Field(
        "default", min_length=1, max_length=63, description="Name of a registry configured in the operator."
    )
    credentials_secret_ref: str | None = Field(
        None, max_length=253, description="Secret whose keys become the environment of the pods' init container."
    )


class Scaling(ApiModel):
    """How many pods the stable revision has. The candidate's follow its share of the traffic."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!(has(self.replicas) && has(self.maxReplicas))",
                "set either spec.scaling.replicas (fixed) or spec.scaling.maxReplicas (autoscaled), not both",
            ),
            (
                "!has(self.minReplicas) || has(self.maxReplicas)",
                "spec.scaling.minReplicas needs spec.scaling.maxReplicas",
            ),
            (
                "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "spec.scaling.minReplicas must not be above spec.scaling.maxReplicas",
            ),
            (
                "!has(self.metrics) || has(self.maxReplicas)",
                "spec.scaling.metrics needs spec.scaling.maxReplicas",
            ),
        )
    )

    replicas: int | None = Field(None, ge=1, le=10000, description="Fixed number of pods; 1 if nothing is set.")
    min_replicas: int | None = Field(None, ge=1, le=10000)
    max_replicas: int | None = Field(None, ge=1, le=10000)
    metrics: OpenList | None = Field(None, description="autoscaling/v2 metrics; CPU utilisation of 80 % if absent.")

    @property
    def autoscaled(self) -> bool:
        return self.max_replicas is not None

    @property
    def base_size(self) -> int:
        """Pods at least: the fixed number, or the autoscaler's minimum."""
        return self.replicas or self.min_replicas or 1


class Pause(ApiModel):
    model_config = ConfigDict(
        json_schema_extra=cel(
            ("!has(self.approval) || !has(self.duration)", "a pause ends after a duration or by an approval, not both")
        )
    )

    approval: str | None = Field(
        None, min_length=1, max_length=63, description="Waits for the command approve; says whose approval it is."
    )
    duration: Duration | None = Field(None, description="Goes on by itself after this long; else waits for resume.")


class Step(ApiModel):
    """One entry of the rollout: a shadow or a weight to hold, or a pause at what is before it."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "[has(self.weight), has(self.shadow), has(self.pause)].exists_one(one, one)",
                "a step has exactly one of weight, shadow and pause",
            ),
            ("!has(self.hold) || !has(self.pause)", "hold belongs to a step with a weight or a shadow"),
        )
    )

    weight: int | None = Field(None, ge=1, le=100, description="Percent of requests that the candidate answers.")
    shadow: int | None = Field(
        None, ge=1, le=100, description="Percent of requests of which the candidate gets a copy; stable answers all."
    )
    hold: Duration | None = Field(None, description="How long at least, from when the weight is in force.")
    pause: Pause | None = None


class Latency(ApiModel):
    """How slow a candidate may be, by the service time that the servers report: the network is not in it."""

    quantile: float = Field(
        0.95,
        gt=0,
        lt=1,
        json_schema_extra={"enum": [0.95, 0.99]},
        description="Quantile of the service time that is compared.",
    )
    margin: float = Field(
        1.5, gt=1, le=100, description="How many times stable's quantile the candidate's must be certified below."
    )


class Objectives(ApiModel):
    error_rate: float = Field(0.01, gt=0, lt=1, description="Error rate that a candidate must be certified below.")
    latency: Latency | None = Field(None, description="Absent: how fast the candidate answers is not judged.")
    drift: Drift = Drift()


class Analysis(ApiModel):
    objectives: Objectives = Objectives()
    queries: list[Query] = Field(
        default_factory=list,
        max_length=MOST_QUERIES,
        description="What a Prometheus server is asked, beside what the pods count.",
        json_schema_extra=cel(("self.all(a, self.exists_one(b, b.query == a.query))", ASKED_ONCE)),
    )
    alpha: float = Field(
        0.05, gt=0, le=0.5, description="Probability at most of failing a candidate as good as stable."
    )
    max_duration: Duration = Field(timedelta(hours=1), description="After this, without a verdict: onInconclusive.")
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE


class Rollout(ApiModel):
    """How a candidate becomes stable."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.shadow) || !has(self.shadow.maxDisagreement) || self.steps.exists(s, has(s.shadow))",
                "spec.rollout.shadow.maxDisagreement needs a step such as {shadow: 20, hold: 10m}",
            )
        )
    )

    steps: list[Step] = Field(
        default_factory=lambda: [
            Step(weight=10, hold=timedelta(minutes=1)),
            Step(weight=50, hold=timedelta(minutes=1)),
        ],
        min_length=1,
        max_length=MAX_STEPS,
        json_schema_extra=cel(
            (
                "self.filter(s, has(s.weight)).map(s, s.weight).isSorted() && self.filter(s, has(s.weight))"
                ".all(a, self.exists_one(b, has(b.weight) && b.weight == a.weight))",
                "weights must rise from step to step",
            ),
            (
                "self.filter(s, !has(s.pause)).map(s, has(s.weight) ? 1 : 0).isSorted()",
                "steps with a shadow come before all weights",
            ),
        ),
    )
    shadow: Shadow = Shadow()
    gates: Gates = Gates()
    analysis: Analysis = Analysis()
    bake: Duration = Field(
        timedelta(minutes=1), description="How long the candidate answers everything, with stable at hand."
    )
    on_failure: OnFailure = Field(OnFailure.ABORT, description="Abort takes the candidate back, Pause waits.")
    progress_deadline: Duration = Field(
        timedelta(minutes=10), description="How long a candidate may take to become ready."
    )
    scale_down_delay: Duration = Field(
        timedelta(seconds=30),
        description="How long the former stable pods stay after a promotion, and what serves now is taken back at once "
        "if it goes bad.",
    )
    rollback_window: Duration = Field(
        timedelta(hours=1), description="How long a former stable may come back without steps and analysis."
    )


class MainService(ApiModel):
    port: int = Field(80, ge=1, le=65535)
    annotations: dict[str, str] | None = None


class Traffic(Routed):
    service: MainService = MainService()


COPIES_BY_RELAY = "steps with a shadow need the router Relay: no Gateway copies requests and compares the answers"


class Spec(ApiModel):
    """Desired state of a ModelDeployment."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.traffic) || !has(self.traffic.gateway) || !has(self.rollout)"
                " || !self.rollout.steps.exists(s, has(s.shadow))",
                COPIES_BY_RELAY,
            ),
            (
                "!has(self.server) || !has(self.server.grpc) || !self.server.grpc || !has(self.traffic)"
                " || !has(self.traffic.service) || self.traffic.service.port != 8081",
                "spec.traffic.service.port is 8081, which is the port of spec.server.grpc: take another",
            ),
        )
    )

    suspend: bool = Field(False, description="Nothing advances and nothing is aborted; the weight is held.")
    model: ModelRef
    server: Server = Server()
    scaling: Scaling = Scaling()
    rollout: Rollout = Rollout()
    traffic: Traffic = Traffic()

    @model_validator(mode="after")
    def _copies_by_relay(self) -> Self:
        if self.traffic.gateway is not None and any(step.shadow for step in self.rollout.steps):
            raise ValueError(COPIES_BY_RELAY)
        return self
