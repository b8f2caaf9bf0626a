"""Pauses among the steps: those that a person or the time may end, and those that only an approval ends."""

from modelramp.api.spec import Pause
from modelramp.api.status import Phase, Status
from modelramp.domain.turn import Turn
from modelramp.domain.world import Approval

PAUSE_STEP, APPROVAL = "PauseStep", "AwaitingApproval"
STEP_PAUSES = (PAUSE_STEP, APPROVAL)


def why(step: Pause) -> tuple[str, str]:
    """Reason and message of a pause that a step makes."""
    if step.approval is None:
        return PAUSE_STEP, "the rollout has a pause here"
    return APPROVAL, f"waits for the approval {step.approval!r}: annotate modelramp.dev/approve=<revision>#<nonce>"


def awaited(turn: Turn) -> bool:
    """Whether the rollout stands at a step that only an approval ends (or an abort, or a promotion by command)."""
    return turn.candidate.pause is not None and turn.candidate.pause.reason == APPROVAL


def why_not(status: Status, given: Approval) -> str:
    """Why an approval does not count; empty if it does."""
    candidate = status.candidate
    if candidate is None:
        return "there is no candidate"
    if (candidate.revision, candidate.attempt) != (given.revision, given.attempt):
        return f"the candidate is revision {candidate.revision}, attempt {candidate.attempt}"
    paused = candidate.pause if status.phase is Phase.PAUSED else None
    if paused is None or paused.reason != APPROVAL:
        return f"the candidate does not wait for an approval: {status.phase}, {status.reason}"
    if paused.message != why(Pause(approval=given.name))[1]:
        return f"the candidate {paused.message}"
    return ""


def words(given: Approval) -> str:
    """How history tells of it."""
    return f"approved by {given.name}"
