"""Pauses among the steps: those that a person or the time may end, and those that only an approval ends."""

from modelramp.api.spec import Pause
from modelramp.domain.turn import Turn

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
