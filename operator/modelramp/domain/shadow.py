"""A shadow step: the candidate gets copies, and no user gets its answers. What it takes to leave it."""

from modelramp.api.spec import Step
from modelramp.api.status import Phase, Verdict
from modelramp.domain import disagreement
from modelramp.domain.disagreement import DISAGREEMENT
from modelramp.domain.moves import enter_step, overdue, undecided
from modelramp.domain.turn import Turn

SHADOWING = "Shadowing"


def impossible(turn: Turn, step: Step, index: int) -> bool:
    """Stable's pods are of an image that copies nothing: the step is left out, and an event says so. With a bound,
    which then nobody can judge, it is as if there were no verdict in time."""
    traffic = turn.status.traffic
    acting = [pod.metrics for pod in turn.world.pods_of(turn.stable_revision) if pod.ready and pod.metrics]
    unable = [m for m in acting if m.generation >= traffic.weight_generation and m.shadow is None]
    if not step.shadow or not traffic.shadow or not unable:
        return False
    message = "stable's pods are of an image that can't copy requests"
    if disagreement.judged(turn):
        undecided(turn, f"{message}, so disagreement can't be judged")
    else:
        turn.tell("ShadowSkipped", f"{message}: the step is left out", warning=True)
        enter_step(turn, index + 1, Phase.RAMPING)
    return True


def unproven(turn: Turn, step: Step, message: str) -> bool:
    """With a bound on disagreement, a shadow lasts until the candidate is certified below it, or the time is over."""
    if not step.shadow or not disagreement.judged(turn):
        return False
    if any(e.metric == DISAGREEMENT and e.verdict is Verdict.PASS for e in turn.status.evidence):
        return False
    if overdue(turn):
        undecided(turn, message)
    else:
        turn.say(SHADOWING, message)
    return True
