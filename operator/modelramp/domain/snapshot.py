"""The whole input of decide(), and its whole output."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelramp.api.spec import Spec
from modelramp.api.status import Status
from modelramp.domain.findings import Findings
from modelramp.domain.fleet import Standing
from modelramp.domain.router import Steering
from modelramp.domain.world import Approval, Command, Event, Resolution, World


@dataclass(frozen=True)
class Target:
    """The revision that spec and registry name now."""

    revision: str
    version: int


@dataclass(frozen=True)
class Policy:
    """What the administrator set for all objects."""

    traffic_ttl: timedelta = timedelta(minutes=2)
    look_interval: timedelta = timedelta(seconds=5)
    unnamed_grace: timedelta = timedelta(minutes=5)
    stable_down_grace: timedelta = timedelta(seconds=30)


@dataclass(frozen=True)
class Snapshot:
    """One object and its world, as read in one pass. Time enters here and nowhere else."""

    now: datetime
    uid: str
    generation: int
    spec: Spec
    status: Status
    world: World
    resolution: Resolution
    target: Target | None
    commands: Sequence[Command] = ()
    approval: Approval | None = None
    policy: Policy = Policy()
    findings: Findings = field(default_factory=Findings)
    adopts: str = ""  # name of the Service to take over
    standing: Standing = field(default_factory=Standing)
    router: Steering = field(kw_only=True)


@dataclass(frozen=True)
class Decision:
    """The status to persist before anything is done, the events to tell once it is, and when to look again."""

    status: Status
    events: tuple[Event, ...]
    requeue_after: timedelta | None
