"""Why a rollout begins: the spec has changed, or its alias names another version."""

from modelramp.api.status import Cause
from modelramp.domain.snapshot import Target
from modelramp.domain.turn import Turn


def of(turn: Turn, target: Target) -> Cause:
    """An alias does not change generation; a spec does, and a change of server settings keeps the version."""
    stable = turn.status.stable
    if tried_again(turn, target):
        return last(turn, target.revision)
    if stable is None or stable.version == target.version or turn.snap.spec.model.alias is None:
        return Cause.SPEC
    return Cause.SPEC if turn.status.observed_generation != turn.snap.generation else Cause.ALIAS


def tried_again(turn: Turn, target: Target) -> bool:
    """Whether it is the same rollout that was given back before."""
    return turn.status.back_off is not None and turn.status.back_off.revision == target.revision


def last(turn: Turn, revision: str) -> Cause:
    """Of the last attempt, as history tells it."""
    began = (h for h in reversed(turn.status.history) if h.revision == revision and h.action == "CandidateStarted")
    return next((Cause(h.reason) for h in began), Cause.ALIAS)
