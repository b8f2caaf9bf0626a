"""How many rollouts run at a time: who waits for a place, in which order, and who may begin.

First come, first served. Whoever waits only for a place in a full namespace lets those of other namespaces pass.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from modelramp.api.status import Status

QUEUED, FROZEN = "Queued", "Frozen"
WAITING = (QUEUED, FROZEN)

Name = tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class Limits:
    """Rollouts at a time; None: no limit."""

    total: int | None = None
    per_namespace: int | None = None

    def __bool__(self) -> bool:
        return (self.total, self.per_namespace) != (None, None)


@dataclass(frozen=True)
class Member:
    """What the others need to know of an object: whether it has a rollout, or since when it has waited for one."""

    rolling: bool = False
    queued_at: datetime | None = None


@dataclass(frozen=True)
class Place:
    """A place in line, counted from 1, and the limit that it is for."""

    position: int
    waiting: int
    limit: str


@dataclass(frozen=True)
class Standing:
    """What the fleet lets an object do now. No place: a rollout may begin."""

    place: Place | None = None
    frozen_until: datetime | None = None


def member(status: Status) -> Member:
    """A first revision is no rollout. Whoever waits in line says so: the suspended, say, are not waited for."""
    if status.candidate is not None:
        return Member(rolling=status.stable is not None)
    return Member(queued_at=status.queued_at if status.reason in WAITING else None)


def in_line(members: Mapping[Name, Member]) -> list[Name]:
    """Those who wait, the first in front."""
    waiting = [(it.queued_at, name) for name, it in members.items() if it.queued_at is not None]
    return [name for _, name in sorted(waiting)]


def places(members: Mapping[Name, Member], line: Sequence[Name], limits: Limits) -> dict[Name, Place | None]:
    """What each of the line waits for; None: it may begin."""
    total = sum(it.rolling for it in members.values())
    by_namespace = Counter(name[0] for name, it in members.items() if it.rolling)
    waiting, found = Counter(name[0] for name in line), dict[Name, Place | None]()
    seen: Counter[str] = Counter()
    for position, name in enumerate(line, start=1):
        namespace = name[0]
        seen[namespace] += 1
        if limits.per_namespace is not None and by_namespace[namespace] >= limits.per_namespace:
            limit = f"{limits.per_namespace} per namespace"
            found[name] = Place(seen[namespace], waiting[namespace], limit)
        elif limits.total is not None and total >= limits.total:
            found[name] = Place(position, len(line), str(limits.total))
        else:
            found[name] = None
            total += 1
            by_namespace[namespace] += 1
    return found
