"""What the registry is told of a rollout: tags of the model versions, as status has them.

They say what is true now, and nothing else: a version that neither serves, nor is tried, nor is rejected has none.
Their times are those of the status, so the same status makes the same tags.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from modelramp.api.base import format_time
from modelramp.api.status import Status
from modelramp.domain.world import ModelVersion, Revision

LONGEST_REASON = 500
STATE, TIME, REASON = "state", "time", "reason"


class State(StrEnum):
    STABLE = "stable"
    CANARY = "canary"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Mark:
    """What is said of one version."""

    state: State
    time: datetime
    reason: str = ""


def marks(status: Status, revisions: Mapping[str, Revision]) -> dict[ModelVersion, Mark]:
    """One per version: several revisions of it may differ, and the one that serves is told first."""
    told = [(r.revision, Mark(State.REJECTED, r.at, f"{r.reason}: {r.message}")) for r in status.rejected]
    if status.candidate:
        told.append((status.candidate.revision, Mark(State.CANARY, status.candidate.started_at)))
    if status.stable:
        told.append((status.stable.revision, Mark(State.STABLE, status.stable.since)))
    return {revisions[revision].model: mark for revision, mark in told if revision in revisions}


def tag(namespace: str, name: str, what: str) -> str:
    """A namespace has no dots, so no two objects share a tag."""
    return f"modelramp.{namespace}.{name}.{what}"


def tags(namespace: str, name: str, mark: Mark | None) -> dict[str, str | None]:
    """None: none of them is to be there. The state comes last: while it is wrong, the rest is looked at again."""
    reason = mark.reason[:LONGEST_REASON] if mark else ""
    wanted = {
        REASON: reason or None,
        TIME: format_time(mark.time) if mark else None,
        STATE: mark.state.value if mark else None,
    }
    return {tag(namespace, name, what): value for what, value in wanted.items()}
