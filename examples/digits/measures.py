"""What the story claims, measured: the share at each weight, and how long a bad version could do harm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from modelramp.api.status import Status

from .answers import Answer
from .watch import Change

FULL = 100
BAD = frozenset({"status", "broken", "slow", "disagrees"})
"""Reasons of `x-modelramp-net` that count against the candidate (docs/contract.md)."""


class Span(NamedTuple):
    """Epoch seconds."""

    since: float
    until: float


@dataclass(frozen=True)
class Held:
    """A weight of one candidate, from when all pods were seen to act on it to its change: in more spans than one where
    the candidate's pods were lost for a while."""

    weight: int
    revision: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Share:
    """Of `answers` answers in the time a weight was held, the percentage that was dealt to the candidate: it gave them,
    or stable did in its place."""

    weight: int
    answers: int
    percent: float

    @property
    def off_by(self) -> float:
        return abs(self.percent - self.weight)


@dataclass(frozen=True)
class Harm:
    """How one bad version went: moments in epoch seconds.

    seconds: from its first bad answer to the moment at which every stable pod was seen to act on weight 0.
    handed: answers that it gave or was asked for in vain; bad: of these the vain ones, given by stable instead.
    """

    first_bad: float
    withdrawn: float
    handed: int
    bad: int

    @property
    def seconds(self) -> float:
        return self.withdrawn - self.first_bad


def _holding(status: Status, version: int) -> tuple[int, float] | None:
    step, candidate = status.step, status.candidate
    if step is None or candidate is None or candidate.version != version or step.in_force_since is None:
        return None
    if status.traffic.weight != step.weight:
        return None
    return step.weight, step.in_force_since.timestamp()


def held(changes: Sequence[Change], version: int) -> list[Held]:
    """The weights that a version held, each until the status that names another one."""
    return [
        Held(weight, revision, tuple(span for _, _, span in spans))
        for (weight, revision), spans in groupby(_spans(changes, version), key=lambda it: it[:2])
    ]


def _spans(changes: Sequence[Change], version: int) -> Iterator[tuple[int, str, Span]]:
    """Each with its weight and revision."""
    current: tuple[int, float] | None = None
    revision = ""
    for change in changes:
        now = _holding(change.status, version)
        if now == current:
            continue
        if current is not None:
            weight, since = current
            yield weight, revision, Span(since, _ended(change, since))
        current = now
        revision = change.status.candidate.revision if change.status.candidate else ""


def _ended(change: Change, since: float) -> float:
    """When the operator decided on the next step, or else when the end was seen."""
    step = change.status.step
    entered = step.entered_at.timestamp() if step else 0.0
    return min(change.seen, entered) if entered > since else change.seen


def share(answers: Sequence[Answer], weight: Held) -> Share:
    """By the revision named in each answer, and the word that stable stood in; only answers that lie wholly in that
    time."""
    inside = [a for a in answers if not a.failed and any(a.sent >= s.since and a.done <= s.until for s in weight.spans)]
    dealt = sum(answer.revision == weight.revision or bool(answer.net) for answer in inside)
    return Share(weight.weight, len(inside), round(100 * dealt / len(inside), 3) if inside else 0.0)


def harm(answers: Sequence[Answer], changes: Sequence[Change], version: int) -> Harm | None:
    """None if the version gave no bad answer, or was not rejected."""
    status = changes[-1].status if changes else Status()
    rejected = next((r for r in status.rejected if r.version == version), None)
    begun = next((c.seen for c in changes if c.status.candidate and c.status.candidate.version == version), None)
    if rejected is None or begun is None:
        return None
    withdrawn = rejected.at.timestamp()
    span = [a for a in answers if begun <= a.sent <= withdrawn]
    bad = [answer for answer in span if answer.net in BAD]
    if not bad:
        return None
    given = sum(answer.version == version for answer in span)
    return Harm(min(answer.done for answer in bad), withdrawn, given + len(bad), len(bad))
