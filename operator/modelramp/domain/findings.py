"""What gates and queries want to know of the outside, and what it said: data, so that deciding stays pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from modelramp.domain.world import ModelVersion, Pod, Unreachable


@dataclass(frozen=True)
class Tensor:
    """One input as a pod's V2 metadata tells it; -1 in ``shape`` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Inference:
    """A pod's answer to one request. ``body`` is parsed JSON; ``seconds`` the service time as the server tells it."""

    status: int
    body: Any
    seconds: float

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class NoExample:
    """The model was logged without an input example."""


@dataclass(frozen=True)
class Refused:
    """The operator will not ask this for this namespace, as it is configured."""

    reason: str
    message: str


Metrics = Mapping[str, float] | Unreachable | None  # None, here and below: not asked
Tags = Mapping[str, str] | Unreachable | None
Signature = tuple[Tensor, ...] | Unreachable | None
Smoked = Inference | NoExample | Unreachable | None
Answer = float | Unreachable | Refused | None


@dataclass(frozen=True)
class Findings:
    """The answers of one pass. ``smoke`` is by the gate's hash, ``queries`` by name."""

    metrics: Metrics = None
    stable_metrics: Metrics = None
    tags: Tags = None
    inputs: Signature = None
    stable_inputs: Signature = None
    smoke: Mapping[str, Smoked] = field(default_factory=dict)
    queries: Mapping[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Served:
    """A model as one pod serves it."""

    pod: Pod
    model: str


@dataclass(frozen=True)
class SmokeTest:
    """A request for a candidate's pod. ``body`` None: the model's own logged example."""

    body: Mapping[str, Any] | None = None
    expect: Mapping[str, Any] | None = None
    tolerance: float = 0.0
    latency: timedelta | None = None


@dataclass(frozen=True)
class Questions:
    """What is to be asked in this pass: of the registry, and of the first ready pods. None: nothing."""

    metrics: ModelVersion | None = None
    stable_metrics: ModelVersion | None = None
    tags: ModelVersion | None = None
    inputs: Served | None = None
    stable_inputs: Served | None = None
    smoke: tuple[str, SmokeTest, Served] | None = None  # one at a time; by the gate's hash


@dataclass(frozen=True)
class Question:
    """One query of one source. ``about``: what its placeholders stand for beside the object; None: its value is not
    wanted now."""

    source: str
    query: str
    about: Mapping[str, str] | None = None
