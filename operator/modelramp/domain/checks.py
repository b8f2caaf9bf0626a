"""What every phase asks before it goes on: is this still wanted, is it broken, is it there, is it in force?

Each answers True (or False, for in_force) once it has said why, or has moved the object elsewhere.
"""

from modelramp.api.spec import OnInconclusive
from modelramp.api.status import Cause, Phase, StepStatus, Verdict
from modelramp.domain import analysis, drift, errors, moves
from modelramp.domain.admission import may_rise
from modelramp.domain.moves import abort, fail, overdue, release, undecided, unresolved
from modelramp.domain.share import Share, held
from modelramp.domain.traffic import FULL, POLL, set_weight, size_for
from modelramp.domain.turn import Turn
from modelramp.domain.world import Unresolved


def moved_on(turn: Turn) -> bool:
    """Another revision is asked for now: take this one back without rejecting it. No target holds what there is."""
    target, candidate = turn.snap.target, turn.candidate
    if target is None or target.revision == candidate.revision:
        return False
    if candidate.cause is Cause.COMMAND:
        return False  # whatever the alias names: it is followed again after the commit
    if target.revision == turn.stable_revision:
        abort(turn, "MovedBack", f"version {target.version}, which serves, is asked for again", reject=False)
    else:
        abort(turn, "Superseded", f"version {target.version} is asked for instead", reject=False)
    return True


def unnamed(turn: Turn) -> bool:
    """The registry answers that nothing is asked for any more (alias deleted, say): hold what there is for a while,
    then take it back without rejecting it."""
    candidate, resolution = turn.candidate, turn.snap.resolution
    if candidate.cause is Cause.COMMAND or not isinstance(resolution, Unresolved):
        if candidate.unnamed_since is not None:
            turn.set(candidate=candidate.model_copy(update={"unnamed_since": None}))
        return False
    since = candidate.unnamed_since or turn.now
    turn.set(candidate=candidate.model_copy(update={"unnamed_since": since}))
    unresolved(turn)
    if turn.over(since, turn.snap.policy.unnamed_grace):
        abort(turn, resolution.reason, resolution.message, reject=False)
    return True


def note_stable(turn: Turn) -> None:
    """Since when none of stable's pods has been ready, if so."""
    stable = turn.status.stable
    if stable is None or bool(turn.world.ready(stable.revision)) == (stable.down_since is None):
        return
    down_since = turn.now if stable.down_since is None else None
    turn.set(stable=stable.model_copy(update={"down_since": down_since}))


def stable_is_down(turn: Turn) -> bool:
    """For a while, that is: there is nobody to compare with, and the candidate grows to carry the whole load."""
    stable = turn.status.stable
    since = stable.down_since if stable else None
    down = since is not None and turn.over(since, turn.snap.policy.stable_down_grace)
    if down != turn.candidate.whole:
        turn.set(candidate=turn.candidate.model_copy(update={"whole": down}))
    return down


def broken(turn: Turn) -> bool:
    """The model's own fault ends the attempt; everybody else's holds it (see waiting_for_pods)."""
    fault = turn.world.fault(turn.candidate.revision)
    if fault is None or not fault.models_own:
        return False
    fail(turn, fault.reason, fault.message)
    return True


def judged_bad(turn: Turn) -> bool:
    """Takes a look if one is due; a Fail ends the attempt."""
    if turn.status.step is None or not turn.status.traffic.live:
        return False
    analysis.look(turn)
    if not analysis.failed(turn):
        return False
    fail(turn, "AnalysisFailed", analysis.told(turn, Verdict.FAIL))
    return True


def drifted(turn: Turn) -> bool:
    """The candidate predicts other classes than stable: whether that is good, a person is asked."""
    message = drift.found(turn)
    if message is not None:
        moves.pause(turn, drift.PAUSED, message)
    return message is not None


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
    late = turn.over(moves.counted_from(turn), turn.snap.spec.rollout.progress_deadline)
    if late and turn.status.phase is Phase.GATING:
        release(turn, fault.reason, fault.message)


def short_of_pods(turn: Turn, reason: str, message: str) -> None:
    """A candidate that has proved to load lacks pods under way: hardly its own fault. Held until the deadline."""
    fault = turn.world.fault(turn.candidate.revision)
    reason, message = (fault.reason, fault.message) if fault else (reason, message)
    since = turn.candidate.waiting_since or turn.now
    turn.set(candidate=turn.candidate.model_copy(update={"waiting_since": since}))
    turn.say(reason, message)
    if turn.over(since, turn.snap.spec.rollout.progress_deadline):
        release(turn, reason, message)


def _starting(turn: Turn, size: int) -> None:
    """Nothing is wrong but, perhaps, the time that it takes."""
    candidate, deadline = turn.candidate, turn.snap.spec.rollout.progress_deadline
    since = candidate.waiting_since or turn.now
    turn.set(candidate=candidate.model_copy(update={"waiting_since": since}))
    ready = turn.world.ready(candidate.revision)
    message = f"{ready} of {size} pods became ready in {deadline.total_seconds():.0f} s"
    if not turn.over(since, deadline):
        moves.starting(turn, size)
    elif turn.status.phase is Phase.GATING:
        fail(turn, "ProgressDeadlineExceeded", message)
    else:
        turn.say("ProgressDeadlineExceeded", f"{message}; still trying")


def in_force(turn: Turn, share: Share) -> bool:
    """Brings a share into force: first enough ready pods, then the router, then the word of all who act on it."""
    candidate, step, size = turn.candidate, turn.status.step, size_for(turn.snap.spec, turn.status, share.load)
    router = turn.snap.router
    ready = router.reachable(turn, candidate.revision)
    if trouble := router.trouble(turn):
        turn.say(trouble.reason, trouble.message)
        turn.wake_in(turn.snap.policy.look_interval)
        return False
    if held(turn.status) != share:
        if share > held(turn.status) and not may_rise(turn):
            return False
        if ready < size:
            short_of_pods(turn, "Sizing", f"{ready} of {size} pods for {share.load} % are ready")
            return False
        set_weight(turn, share.weight, share.shadow)
        step = turn.status.step
        tell_share(turn, share)
    elif ready < (size if share.weight == FULL else 1):
        turn.set(step=step and step.model_copy(update={"in_force_since": None}))
        short_of_pods(turn, "PodsLost", f"{ready} of {size} pods of the candidate are ready")
        return False
    turn.set(candidate=turn.candidate.model_copy(update={"waiting_since": None}))
    if step and step.in_force_since is None:
        if not followed(turn, step, router.in_force(turn)):
            turn.say("Splitting", f"waiting for {router.awaited(turn)}")
            return False
        turn.set(step=step.model_copy(update={"accepted_since": None, "in_force_since": turn.now}))
    return True


def followed(turn: Turn, step: StepStatus, accepted: bool) -> bool:
    """Whether the router's word, that it holds what is wanted, is so old that all act on it who share requests out."""
    since = (step.accepted_since or turn.now) if accepted else None
    if since is None:
        turn.wake_in(POLL)
    elif turn.over(since, turn.snap.router.follows):
        return True
    turn.set(step=step.model_copy(update={"accepted_since": since}))
    return False


def tell_share(turn: Turn, share: Share) -> None:
    version = turn.candidate.version
    if share.shadow:
        message = f"copies of {share.shadow} % of the requests go to version {version}; stable answers all"
        return turn.tell("ShadowSet", message)
    turn.tell("WeightSet", f"{share.weight} % of the requests go to version {version}")


def blind(turn: Turn) -> bool:
    """No data (nobody takes the candidate's requests, or the pods can't be asked): the step is held, up to a limit."""
    if not analysis.blind(turn):
        return False
    message = analysis.told(turn, Verdict.ERROR)
    asked = turn.snap.spec.rollout.analysis.on_inconclusive
    last_wait = turn.status.phase is Phase.PROMOTING and asked is OnInconclusive.PROMOTE
    if last_wait or not overdue(turn):
        turn.say("NoEvidence", message)
    else:
        undecided(turn, message)
    return True


def overloaded(turn: Turn) -> bool:
    """It cannot bear what it is about to be given for good: held, up to a limit."""
    message = errors.overload(turn)
    if message and overdue(turn):
        undecided(turn, message)
    elif message:
        turn.say("Overloaded", message)
    return bool(message)


def holding(turn: Turn, share: Share) -> str:
    return f"{share}: {analysis.told(turn)}"
