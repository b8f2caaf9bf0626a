"""Stable's servers may know no split of our format: an image without a relay, or one older than the format.

No weight can be brought into force then. The candidate, which has passed its gates, passes the weight steps without
traffic, so that pauses hold, and is promoted directly. A pod that does not answer tells nothing: it is waited for.
"""

from modelramp.api.status import Phase
from modelramp.domain.admission import may_rise
from modelramp.domain.approval import why
from modelramp.domain.checks import short_of_pods
from modelramp.domain.moves import enter_step, pause, promote, step_index
from modelramp.domain.traffic import full_size, set_weight
from modelramp.domain.turn import Turn

UNSUPPORTED = "SplitUnsupported"


def unsplit(turn: Turn) -> bool:
    """Whether a ready stable pod has said, in this attempt, that it knows no split of this format."""
    if turn.candidate.unsplit:
        return True
    why_not = turn.snap.router.unable(turn)
    if not why_not:
        return False
    if turn.status.traffic.live:
        set_weight(turn, 0)
    turn.set(candidate=turn.candidate.model_copy(update={"unsplit": True}))
    message = f"{why_not}, so no weight can be in force: version {turn.candidate.version} is promoted directly after "
    message += "its gates; pauses hold"
    turn.record_candidate(UNSUPPORTED, UNSUPPORTED, message, warning=True)
    turn.say(UNSUPPORTED, message)
    return True


def straight_on(turn: Turn) -> None:
    """The next step, whatever its weight; a pause holds."""
    steps, index = turn.snap.spec.rollout.steps, step_index(turn)
    if index == len(steps):
        return promote(turn, f"version {turn.candidate.version} has passed its gates; nothing can be compared")
    step = steps[index]
    if step.pause is not None:
        return pause(turn, *why(step.pause))
    if may_rise(turn):
        enter_step(turn, index + 1, Phase.RAMPING)


def may_switch(turn: Turn) -> bool:
    """Whether everything may go to the candidate at once: it is of full size, and no freeze window is open."""
    if not may_rise(turn):
        return False
    ready, size = turn.world.ready(turn.candidate.revision), full_size(turn.snap.spec, turn.status)
    if ready < size:
        short_of_pods(turn, "Sizing", f"{ready} of {size} pods are ready to take everything")
    return ready >= size
