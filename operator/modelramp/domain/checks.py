"""What every phase asks before it goes on: is this still wanted, is it broken, is it there, is it in force?

Each answers True (or False, for in_force) once it has said why, or has moved the object elsewhere.
"""

from modelramp.api.spec import Step
from modelramp.api.status import Phase
from modelramp.domain import analysis
from modelramp.domain.admission import may_rise
from modelramp.domain.moves import abort, fail, release, undecided, unresolved
from modelramp.domain.traffic import FULL, POLL, acknowledged, set_weight, size_for
from modelramp.domain.turn import Turn
from modelramp.domain.world import Unresolved


def moved_on(turn: Turn) -> bool:
    """Another revision is asked for now: take this one back without rejecting it. No target holds what there is."""
    target, candidate = turn.snap.target, turn.candidate
    if target is None or target.revision == candidate.revision:
        return False
    if target.revision == turn.stable_revision:
        abort(turn, "MovedBack", f"version {target.version}, which serves, is asked for again", reject=False)
    else:
        abort(turn, "Superseded", f"version {target.version} is asked for instead", reject=False)
    return True


def unnamed(turn: Turn) -> bool:
    """The registry answers that nothing is asked for any more (alias deleted, say): hold what there is."""
    if not isinstance(turn.snap.resolution, Unresolved):
        return False
    unresolved(turn)
    return True


def broken(turn: Turn) -> bool:
    """The model's own fault ends the attempt; everybody else's holds it (see waiting_for_pods)."""
    fault = turn.world.fault(turn.candidate.revision)
    if fault is None or not fault.models_own:
        return False
    fail(turn, fault.reason, fault.message)
    return True


def judged_bad(turn: Turn) -> bool:
    """Takes a look if one is due; a Fail ends the attempt."""
    if turn.status.step is None or not turn.status.traffic.weight:
        return False
    analysis.look(turn)
    failure = analysis.failure(turn)
    if failure is None:
        return False
    fail(turn, "AnalysisFailed", failure.message)
    return True


def waiting_for_pods(turn: Turn, size: int) -> None:
    """Says what keeps the pods, and ends the wait at the deadline: as a rejection only if nothing else is to blame.

    Time under somebody else's fault does not count against the model: its deadline begins anew when that is over.
    """
    fault = turn.world.fault(turn.candidate.revision)
    if fault is None:
        return _starting(turn, size)
    turn.set(candidate=turn.candidate.model_copy(update={"waiting_since": None}))
    if fault.reason != turn.status.reason:
        turn.tell(fault.reason, fault.message, warning=True)
    turn.say(fault.reason, fault.message)
    late = turn.over(turn.candidate.started_at, turn.snap.spec.rollout.progress_deadline)
    if late and turn.status.phase is Phase.GATING:
        release(turn, fault.reason, fault.message)


def _starting(turn: Turn, size: int) -> None:
    """Nothing is wrong but, perhaps, the time that it takes."""
    candidate, deadline = turn.candidate, turn.snap.spec.rollout.progress_deadline
    since = candidate.waiting_since or turn.now
    turn.set(candidate=candidate.model_copy(update={"waiting_since": since}))
    ready = turn.world.ready(candidate.revision)
    message = f"{ready} of {size} pods became ready in {deadline.total_seconds():.0f} s"
    if not turn.over(since, deadline):
        turn.say("Starting", f"version {candidate.version}: {ready} of {size} pods are ready")
    elif turn.status.phase is Phase.GATING:
        fail(turn, "ProgressDeadlineExceeded", message)
    else:
        turn.say("ProgressDeadlineExceeded", f"{message}; still trying")


def in_force(turn: Turn, weight: int) -> bool:
    """Brings a weight into force: first enough ready pods, then the split, then every stable pod's word for it."""
    candidate, step, size = turn.candidate, turn.status.step, size_for(turn.snap.spec, turn.status, weight)
    ready = turn.world.ready(candidate.revision)
    if turn.status.traffic.weight != weight:
        if weight > turn.status.traffic.weight and not may_rise(turn):
            return False
        if ready < size:
            fault = turn.world.fault(candidate.revision)
            turn.say(fault.reason if fault else "Sizing", f"{ready} of {size} pods for {weight} % are ready")
            return False
        set_weight(turn, weight)
        turn.tell("WeightSet", f"{weight} % of the requests go to version {candidate.version}")
    elif ready < (size if weight == FULL else 1):
        fault = turn.world.fault(candidate.revision)
        turn.say(fault.reason if fault else "PodsLost", f"{ready} of {size} pods of the candidate are ready")
        turn.set(step=step and step.model_copy(update={"in_force_since": None}))
        return False
    if step and step.in_force_since is None:
        if not acknowledged(turn):
            turn.say("Splitting", f"waiting for every stable pod to act on {weight} %")
            turn.wake_in(POLL)
            return False
        turn.set(step=step.model_copy(update={"in_force_since": turn.now}))
    return True


def blind(turn: Turn) -> bool:
    """No data (nobody takes the candidate's requests, or the pods can't be asked): the step is held, up to a limit."""
    if not analysis.blind(turn):
        return False
    message = turn.status.evidence[0].message
    if turn.over(turn.candidate.started_at, turn.snap.spec.rollout.analysis.max_duration):
        undecided(turn, message)
    else:
        turn.say("NoEvidence", message)
    return True


def holding(turn: Turn, step: Step) -> str:
    evidence = turn.status.evidence[0].message if turn.status.evidence else "no look taken yet"
    return f"{step.weight} %: {evidence}"
