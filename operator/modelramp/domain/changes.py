"""What a decision changed, for those who count it, log it or pass it on. Derived from the status before and after, so
that no rule of the rollout needs to know who listens."""

from enum import StrEnum

from modelramp.api.status import Cause, HistoryEntry, Status, Verdict


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    MOVED_BACK = "moved_back"
    ROLLED_BACK = "rolled_back"  # just after its promotion, or by command
    RELEASED = "released"  # taken back for what is not the model's fault; tried again when it is asked for


UNBLAMED = {"Superseded": Outcome.SUPERSEDED, "MovedBack": Outcome.MOVED_BACK}


def recorded(before: Status, after: Status) -> list[HistoryEntry]:
    """The decisions that history has gained."""
    return [entry for entry in after.history if entry not in before.history]


def ended(before: Status, after: Status) -> Outcome | None:
    """The outcome, if this decision ended a rollout. A first revision has nobody to be compared with: it is none."""
    if any(entry.action == "RolledBack" for entry in recorded(before, after)):
        return Outcome.ROLLED_BACK
    candidate = before.candidate
    if candidate is None or before.stable is None:
        return None
    if after.candidate is not None and after.candidate.revision == candidate.revision:
        return None
    if after.stable is not None and after.stable.revision == candidate.revision:
        return Outcome.ROLLED_BACK if candidate.cause is Cause.COMMAND else Outcome.PROMOTED
    stop = candidate.abort
    if stop is not None and stop.reject:
        return Outcome.REJECTED
    return UNBLAMED.get(stop.reason if stop else "", Outcome.RELEASED)


def looks(before: Status, after: Status) -> list[tuple[str, Verdict]]:
    """Metric and verdict of each look at the evidence that this decision took; all queries are one metric."""
    known = {evidence.metric: evidence.looked_at for evidence in before.evidence}
    fresh = [e for e in after.evidence if e.looked_at and e.looked_at != known.get(e.metric)]
    return [(e.metric.partition("/")[0], e.verdict) for e in fresh]


def subject(before: Status, after: Status) -> str:
    """The revision that this decision is about: the candidate's, while there is one; else the one that serves."""
    return next((it.revision for it in (after.candidate, before.candidate, after.stable) if it), "")
