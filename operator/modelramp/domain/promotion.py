"""The commit of a promotion: the candidate becomes stable, its pods untouched; only the traffic moves."""

from modelramp.api.status import Cause, Phase, StableStatus
from modelramp.domain import moves, rollback
from modelramp.domain.turn import Turn


def hand_over(turn: Turn) -> None:
    """From the next projection on the main Service selects the candidate's pods, and the demoted ones hand over
    everything, without expiry."""
    former = turn.stable
    rollback.begin_guard(turn)
    if turn.candidate.cause is Cause.COMMAND:
        rollback.reject(turn, former, Cause.ALIAS, "RollbackCommanded", "rolled back by command")
    else:
        rollback.remember(turn)
    moves.drain(turn, former.revision, turn.candidate.revision)
    settle_as_stable(turn)


def settle_as_stable(turn: Turn) -> None:
    candidate = turn.candidate
    turn.set(
        stable=StableStatus(revision=candidate.revision, version=candidate.version, since=turn.now),
        candidate=None,
        step=None,
        evidence=[],
        back_off=None,
    )
    moves.lift(turn, candidate.revision)
    turn.say("Serving", f"version {candidate.version} serves")
    turn.enter(Phase.STABLE)
