"""What decide() asks of a router: does the world hold the weight, and what has each side counted? (docs/routers.md)

A router is one module of ``modelramp.routers``. What it makes of the status is in ``desired/router.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from modelramp.api.routing import RouterKind
from modelramp.api.status import Status
from modelramp.domain.world import Pod, SplitCounts

if TYPE_CHECKING:
    from modelramp.domain.turn import Turn


class RouteKind(NamedTuple):
    """A kind of object that a router makes, one of each, named as the ModelDeployment. The cluster may lack it.

    ``whole`` is a list of its spec that is the router's alone: what is added in it is as wrong as what is changed."""

    api_version: str
    kind: str
    plural: str
    whole: str


class Trouble(NamedTuple):
    """Why the router cannot do its work, and what to do about it."""

    reason: str
    message: str


@dataclass(frozen=True)
class Tally:
    """One look at the counters. ``stable``: the stable pods that told theirs. ``counters``: what each container has
    counted for the attempt, both sides. ``born``: those of them that began to count after the look before, so that
    all they show is new; what is neither known nor born is a baseline. ``missing``: a side could not be asked.
    ``partial``: a pod did not tell, and with it only one side's requests are unknown."""

    stable: tuple[Pod, ...]
    counters: Mapping[str, SplitCounts]
    born: Collection[str]
    missing: bool
    partial: bool = False


class Steering(Protocol):
    """Pure: what it knows is in the turn."""

    @property
    def name(self) -> RouterKind: ...

    @property
    def kinds(self) -> tuple[RouteKind, ...]:
        """What it makes beside the children that every ModelDeployment has."""
        ...

    @property
    def follows(self) -> timedelta:
        """How long after it says that the world holds a weight, some requests may still go by the one before."""
        ...

    def trouble(self, turn: Turn) -> Trouble | None:
        """Shown as a condition; no weight rises meanwhile."""
        ...

    def reachable(self, turn: Turn, revision: str) -> int:
        """Pods of a revision that would get requests if it had a weight now."""
        ...

    def in_force(self, turn: Turn) -> bool:
        """Whether the world holds the weight of ``status.traffic``."""
        ...

    def awaited(self, turn: Turn) -> str:
        """What is waited for until it does; continues "waiting for"."""
        ...

    def unable(self, turn: Turn) -> str:
        """What a ready stable pod has said that lets no weight come into force, ever; empty: nothing. A pod that does
        not answer tells nothing."""
        ...

    def lapsed(self, turn: Turn) -> bool:
        """Whether a weight that was in force is so no more."""
        ...

    def withdrawn(self, turn: Turn) -> bool:
        """Whether no request reaches the candidate any more, the weight having been set to 0."""
        ...

    def released(self, turn: Turn) -> bool:
        """Whether pods of revisions without a share may go: nothing that it steers still sends them requests."""
        ...

    def renew(self, turn: Turn) -> None:
        """Keeps the present weight alive, where it would expire; tells those again who do not act on it."""
        ...

    def counting(self, status: Status) -> tuple[str, ...]:
        """Revisions whose pods count the requests of a rollout."""
        ...

    def tally(self, turn: Turn) -> Tally: ...
