"""The metrics that a Prometheus server has: a named query's value against the bounds of the spec.

A few values in a row decide, as elsewhere, so nothing is said of how often a healthy candidate fails by chance: that is
what the pods' counters are for (docs/analysis.md, "Queries"). No value is an Error, which holds and fails nobody.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from modelramp.api.queries import Query
from modelramp.api.status import EvidenceStatus, Phase, Verdict
from modelramp.domain.findings import Answer, Question, Refused
from modelramp.domain.snapshot import Snapshot
from modelramp.domain.turn import Turn

JUDGED = (Phase.RAMPING, Phase.PAUSED, Phase.PROMOTING)
PLACEHOLDERS = ("namespace", "name", "revision", "stable")
PLACEHOLDER = re.compile(r"\{\{(?:(" + "|".join(PLACEHOLDERS) + r")\}\})?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def unfit(template: str) -> str:
    """What in a configured query looks like a placeholder and is none; empty: nothing."""
    wrong = (found for found in PLACEHOLDER.finditer(template) if not found[1])
    return next((template[found.start() : found.start() + 20] for found in wrong), "")


def filled(template: str, values: Mapping[str, str]) -> str:
    """The query to send. Raises ValueError for a value that is more than a name: it could change what is asked."""
    for placeholder, value in values.items():
        if not NAME.fullmatch(value):
            raise ValueError(f"{placeholder} is {value!r}, and no name of Kubernetes")
    return PLACEHOLDER.sub(lambda found: values[found[1]], template)


@dataclass(frozen=True)
class Memory:
    """Of the last values of one query in this attempt, which were outside the bounds. ``asked`` tells the query: an
    edited one begins afresh."""

    asked: str
    outside: tuple[bool, ...] = ()

    @classmethod
    def of(cls, query: Query, text: str) -> "Memory":
        """Starts afresh from anything that this release did not write."""
        asked = hashlib.sha256(repr(query).encode()).hexdigest()[:8]
        try:
            data = json.loads(text)
            return cls(asked, tuple(map(bool, data["outside"])) if data["asked"] == asked else ())
        except (ValueError, KeyError, TypeError):
            return cls(asked)

    def dump(self) -> str:
        return json.dumps({"asked": self.asked, "outside": self.outside}, separators=(",", ":"))

    @property
    def in_a_row(self) -> int:
        """How many values, up to the last one, are on the same side of the bounds."""
        same = [value == self.outside[-1] for value in reversed(self.outside)]
        return same.index(False) if False in same else len(same)

    def verdict(self, failures: int) -> Verdict:
        if self.in_a_row < failures:
            return Verdict.INCONCLUSIVE
        return Verdict.FAIL if self.outside[-1] else Verdict.PASS


def questions(snap: Snapshot) -> tuple[Question, ...]:
    """Every query of the spec; with the revisions that it is about if its value is wanted now: while a candidate gets
    requests, when a look is due, once per interval."""
    about, before = _judged_now(snap), snap.status.evidence
    return tuple(
        Question(query.source, query.query, about if _over(snap.now, _said_of(query, before), query) else None)
        for query in snap.spec.rollout.analysis.queries
    )


def _judged_now(snap: Snapshot) -> dict[str, str] | None:
    """The revisions of a look that is due; None if none is."""
    status, candidate, stable = snap.status, snap.status.candidate, snap.status.stable
    if candidate is None or stable is None or candidate.direct or snap.spec.suspend:
        return None
    if status.phase not in JUDGED or status.step is None or not status.traffic.live:
        return None
    last = max((e.looked_at for e in status.evidence if e.looked_at is not None), default=None)
    if last is not None and last <= snap.now < last + snap.policy.look_interval:
        return None
    return {"revision": candidate.revision, "stable": stable.revision}


def _over(now: datetime, before: EvidenceStatus | None, query: Query) -> bool:
    last = before.looked_at if before else None
    return last is None or not last <= now < last + query.interval


def _said_of(query: Query, evidence: Collection[EvidenceStatus]) -> EvidenceStatus | None:
    """Its entry, if that is of the query as the spec has it now."""
    entry = next((e for e in evidence if e.metric == query.metric), None)
    return entry if entry and entry.state == Memory.of(query, entry.state).dump() else None


def metrics(turn: Turn) -> list[str]:
    return [query.metric for query in turn.snap.spec.rollout.analysis.queries]


def look(turn: Turn) -> list[EvidenceStatus]:
    """The evidence after this look; of a query that was not asked this time, what its last value said."""
    answers, asked = turn.snap.findings.queries, turn.snap.spec.rollout.analysis.queries
    found = (_judged(turn, query, answers.get(query.query)) for query in asked)
    return [evidence for evidence in found if evidence is not None]


def _judged(turn: Turn, query: Query, answer: Answer) -> EvidenceStatus | None:
    before = _said_of(query, turn.status.evidence)
    if answer is None:
        return before
    memory = Memory.of(query, before.state if before else "")
    if isinstance(answer, float):
        memory = Memory(memory.asked, (*memory.outside, bool(beyond(query, answer)))[-query.failures :])
        verdict, message = memory.verdict(query.failures), told(query, answer, memory)
    else:
        verdict, message = Verdict.ERROR, answer.message
    return EvidenceStatus(
        metric=query.metric, verdict=verdict, message=message, looked_at=turn.now, state=memory.dump()
    )


def beyond(query: Query, value: float) -> str:
    """The bound that the value does not keep; empty: it keeps them."""
    if query.max is not None and value > query.max:
        return f"above {query.max:g}"
    return f"below {query.min:g}" if query.min is not None and value < query.min else ""


def told(query: Query, value: float, memory: Memory) -> str:
    """As "0.83 is above 0.5, 2 of 3 times in a row"."""
    least = [] if query.min is None else [f"{query.min:g} at least"]
    most = [] if query.max is None else [f"{query.max:g} at most"]
    where = beyond(query, value) or f"within bounds ({', '.join(least + most)})"
    return f"{value:.4g} is {where}, {memory.in_a_row} of {query.failures} times in a row"


def refusal(turn: Turn) -> Refused | None:
    """Why one of the queries will not be asked, ever, if so."""
    answers = turn.snap.findings.queries.values()
    return next((answer for answer in answers if isinstance(answer, Refused)), None)


def kept_back(turn: Turn) -> bool:
    """No candidate can pass what is not asked, so none gets a request. No fault of it: no deadline counts meanwhile, as
    behind a gate."""
    refused = refusal(turn)
    if refused is None:
        return False
    if refused.reason != turn.status.reason:
        turn.tell(refused.reason, refused.message, warning=True)
    turn.set(candidate=turn.candidate.model_copy(update={"waiting_since": None}))
    turn.held = True
    turn.say(refused.reason, refused.message)
    return True
