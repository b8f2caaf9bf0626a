"""What a phase does once it knows: begin, step, pause, fail, take back. All of it on the status only."""

from datetime import datetime, timedelta

from modelramp.api.spec import OnFailure, OnInconclusive
from modelramp.api.status import (
    MAX_REJECTED,
    AbortStatus,
    BackOff,
    CandidateStatus,
    Cause,
    Draining,
    PauseStatus,
    Phase,
    Rejected,
    StepStatus,
)
from modelramp.domain import analysis, causes, drift, errors
from modelramp.domain.approval import STEP_PAUSES
from modelramp.domain.share import Share, held, in_hand, wanted
from modelramp.domain.snapshot import Target
from modelramp.domain.traffic import FULL, POLL, candidate_size, salt, set_weight
from modelramp.domain.turn import Turn
from modelramp.domain.world import Unreachable, Unresolved

FIRST_BACK_OFF = timedelta(seconds=30)
LONGEST_BACK_OFF = timedelta(minutes=30)
SHORTEST_DRAIN = timedelta(seconds=5)  # for demoted pods to hear that they hand over, and to send their clients away
NO_TIME = timedelta(0)
INCONCLUSIVE, COMMANDED = "Inconclusive", "PauseCommanded"


def unresolved(turn: Turn) -> None:
    """No target: the registry is silent, or has no such thing. What serves keeps serving."""
    match turn.snap.resolution:
        case Unresolved(reason, message):
            turn.say(reason, message)
        case Unreachable(message):
            turn.say("RegistryUnavailable", message)
        case _ if turn.status.stable is None:
            turn.say("Resolving", "asking the registry")


def begin(turn: Turn, target: Target, phase: Phase, why: Cause | None = None) -> None:
    """A candidate: recorded here first, created by the projection of this status."""
    status = turn.status
    tried = [h.attempt for h in status.history if h.revision == target.revision]
    workload = turn.world.workloads.get(turn.stable_revision or "")
    candidate = CandidateStatus(
        revision=target.revision,
        version=target.version,
        attempt=max(tried, default=0) + 1,
        cause=why or causes.of(turn, target),
        direct=came_back(turn, target.revision),
        started_at=turn.now,
        waiting_since=turn.now,
        floor=workload.replicas if workload else 0,
        salt=salt(turn.snap.uid, target.revision, status.traffic.generation),
    )
    draining = [d for d in status.draining if d.revision != target.revision]
    if draining != status.draining:
        set_weight(turn, 0)  # a new generation: these pods hand over no longer
    turn.set(candidate=candidate, step=None, evidence=[], draining=draining, guard=None, queued_at=None)
    instead = f" beside version {status.stable.version}" if status.stable else ""
    turn.record_candidate("CandidateStarted", candidate.cause.value, f"starting version {target.version}{instead}")
    starting(turn, candidate_size(turn.snap.spec, turn.status))
    turn.enter(phase)


def starting(turn: Turn, size: int) -> None:
    """Pods start, and nothing is wrong but, perhaps, the time that it takes."""
    candidate = turn.candidate
    ready = turn.world.ready(candidate.revision)
    turn.say("Starting", f"version {candidate.version}: {ready} of {size} pods are ready")


def came_back(turn: Turn, revision: str) -> bool:
    """Whether what is asked for was stable within the rollback window."""
    return any(f.revision == revision for f in turn.status.former)


def enter_step(turn: Turn, index: int, phase: Phase) -> None:
    steps = turn.snap.spec.rollout.steps
    share = wanted(steps[index], held(turn.status)) if index < len(steps) else Share(FULL)
    turn.set(step=StepStatus(index=index, entered_at=turn.now, weight=share.weight, shadow=share.shadow))
    turn.enter(phase)


def step_index(turn: Turn) -> int:
    """The step in hand; of steps edited meanwhile, the highest whose weight is not above the present one."""
    steps = turn.snap.spec.rollout.steps
    index = turn.status.step.index if turn.status.step else 0
    share = in_hand(turn.status)
    done = index == len(steps) and share == Share(FULL)  # past the last step, not at one of a longer list
    if done or (index < len(steps) and wanted(steps[index], share) == share):
        return index
    reached = [i for i, step in enumerate(steps) if step.pause is None and wanted(step, share) <= share]
    index = reached[-1] if reached else 0
    enter_step(turn, index, turn.status.phase)
    return index


def conclude(turn: Turn) -> None:
    """All steps are done: what does the evidence say?"""
    if analysis.passed(turn):
        return promote(turn, analysis.told(turn))
    message = analysis.told(turn)
    if not overdue(turn):
        return turn.say("AwaitingVerdict", message)
    undecided(turn, message)


def undecided(turn: Turn, message: str) -> None:
    """The time for a verdict is over."""
    match turn.snap.spec.rollout.analysis.on_inconclusive:
        case OnInconclusive.PROMOTE:
            promote(turn, f"no verdict in time: {message}")
        case OnInconclusive.ABORT:
            abort(turn, INCONCLUSIVE, f"no verdict in time: {message}", reject=True)
        case _:
            pause(turn, INCONCLUSIVE, f"no verdict in time: {message}")


def pause(turn: Turn, reason: str, message: str) -> None:
    end_pause(turn)
    turn.record_candidate("Paused", reason, message)
    halt = PauseStatus(reason=reason, message=message, since=turn.now)
    turn.set(candidate=turn.candidate.model_copy(update={"pause": halt}))
    turn.say(reason, message)
    turn.enter(Phase.PAUSED)


def resume(turn: Turn, message: str) -> None:
    """Out of a pause step to what is after it; out of a failure into a new attempt; else on with the step in hand."""
    turn.record_candidate("Resumed", "Resumed", message)
    turn.say("Resumed", message)
    why = end_pause(turn)
    failed = why not in (*STEP_PAUSES, COMMANDED, INCONCLUSIVE, drift.PAUSED, "") or turn.status.step is None
    if failed:
        return afresh(turn, Phase.GATING)
    if why == INCONCLUSIVE:  # the time for a verdict begins anew
        turn.set(candidate=turn.candidate.model_copy(update={"idle": turn.now - turn.candidate.started_at}))
    if why in STEP_PAUSES:
        return enter_step(turn, step_index(turn) + 1, Phase.RAMPING)
    turn.enter(Phase.RAMPING)


def end_pause(turn: Turn) -> str:
    """Takes the pause off the candidate; returns its reason. The time that it took counts for no deadline."""
    pause = turn.candidate.pause
    if pause is None:
        return ""
    idled(turn, pause.since)
    turn.set(candidate=turn.candidate.model_copy(update={"pause": None}))
    if pause.reason == drift.PAUSED:
        drift.accept(turn)
    return pause.reason


def idled(turn: Turn, since: datetime | None) -> None:
    """Nothing could go on since then: no deadline counts that time."""
    idle = turn.candidate.idle + max(turn.now - (since or turn.now), NO_TIME)
    turn.set(candidate=turn.candidate.model_copy(update={"idle": idle, "waiting_since": None}))


def overdue(turn: Turn) -> bool:
    """Whether the time for a verdict is over."""
    return turn.over(counted_from(turn), turn.snap.spec.rollout.analysis.max_duration)


def counted_from(turn: Turn) -> datetime:
    """The start of the attempt, moved by the time in which nothing could go on."""
    candidate = turn.candidate
    counted = candidate.started_at + candidate.idle + (turn.now - (candidate.held_since or turn.now))
    return min(counted, turn.now)


def account_for_holds(turn: Turn) -> None:
    """Time behind a gate or in a freeze counts for no deadline."""
    candidate = turn.status.candidate
    if candidate is None or turn.held == (candidate.held_since is not None):
        return
    if not turn.held:
        idled(turn, candidate.held_since)
    turn.set(candidate=turn.candidate.model_copy(update={"held_since": turn.now if turn.held else None}))


def afresh(turn: Turn, phase: Phase) -> None:
    """A new attempt of the same candidate, its evidence forgotten."""
    it, generation = turn.candidate, turn.status.traffic.generation
    changes = {
        "attempt": it.attempt + 1,
        "started_at": turn.now,
        "waiting_since": turn.now,
        "idle": NO_TIME,
        "held_since": None,
        "obeyed": False,
        "unsplit": False,
        "salt": salt(turn.snap.uid, it.revision, generation),
        "gates": [],
        "drift_accepted": None,
    }
    turn.set(candidate=it.model_copy(update=changes), step=None, evidence=[])
    turn.enter(phase)


def promote(turn: Turn, message: str) -> None:
    """Straight to everything. By command also out of a failure, whose evidence is then no longer asked."""
    if end_pause(turn) and analysis.failed(turn):
        known = errors.of_stable(turn)
        afresh(turn, Phase.PROMOTING)
        turn.set(evidence=[known])
    turn.tell("Promoting", message)
    turn.say("Promoting", message)
    enter_step(turn, len(turn.snap.spec.rollout.steps), Phase.PROMOTING)


def fail(turn: Turn, reason: str, message: str) -> None:
    """The candidate has failed on its own account: taken back, or held for a person where the spec says so."""
    if turn.snap.spec.rollout.on_failure is OnFailure.ABORT:
        return abort(turn, reason, message, reject=True)
    if turn.status.traffic.live:
        set_weight(turn, 0)
    if turn.candidate.pause is None or turn.candidate.pause.reason != reason:
        pause(turn, reason, message)


def abort(turn: Turn, reason: str, message: str, *, reject: bool) -> None:
    """Weight 0 first; the rest when that is seen to hold."""
    turn.record_candidate("Aborting", reason, message, warning=reject)
    if turn.status.traffic.live:
        set_weight(turn, 0)
    stop = AbortStatus(reason=reason, message=message, reject=reject)
    turn.set(candidate=turn.candidate.model_copy(update={"abort": stop}))
    turn.say(reason, message)
    turn.enter(Phase.ABORTING)


def release(turn: Turn, reason: str, message: str) -> None:
    """Not the model's fault, and it lasts: give back what it holds, and try again later."""
    before = turn.status.back_off
    failures = before.failures + 1 if before and before.revision == turn.candidate.revision else 1
    delay = min(FIRST_BACK_OFF * 2 ** (failures - 1), LONGEST_BACK_OFF)
    message = f"{message}; tried again in {delay.total_seconds():.0f} s"
    until = turn.now + delay
    turn.set(back_off=BackOff(revision=turn.candidate.revision, failures=failures, until=until, message=message))
    abort(turn, reason, message, reject=False)


def retire(turn: Turn) -> None:
    """Former stable revisions go when their time is up, and the router has let go of them."""
    left = [d for d in turn.status.draining if not turn.over(d.until, NO_TIME)]
    if left != turn.status.draining and not turn.snap.router.released(turn):
        return turn.wake_in(POLL)
    turn.set(draining=left)


def reject(turn: Turn, entry: Rejected) -> None:
    lift(turn, entry.revision)
    turn.set(rejected=[*turn.status.rejected, entry][-MAX_REJECTED:])


def lift(turn: Turn, revision: str) -> None:
    """It is rejected no more."""
    turn.set(rejected=[r for r in turn.status.rejected if r.revision != revision])


def drain(turn: Turn, leaving: str, staying: str) -> None:
    """What was stable hands everything over until it goes, under a new generation, as do those that drain already."""
    set_weight(turn, 0)
    generation = turn.status.traffic.generation
    until = turn.now + max(turn.snap.spec.rollout.scale_down_delay, SHORTEST_DRAIN)
    others = [d.model_copy(update={"generation": generation}) for d in turn.status.draining if d.revision != staying]
    turn.set(draining=[*others, Draining(revision=leaving, until=until, generation=generation)])


def taken_back(turn: Turn, stop: AbortStatus) -> None:
    """The end of an abort: nothing reaches the candidate any more, and a rejected one is remembered."""
    candidate = turn.candidate
    turn.tell("TrafficReturned", f"no request goes to version {candidate.version}")
    if stop.reject:
        rejected = Rejected(
            revision=candidate.revision,
            version=candidate.version,
            reason=stop.reason,
            message=stop.message,
            cause=candidate.cause,
            attempt=candidate.attempt,
            at=turn.now,
        )
        reject(turn, rejected)
        turn.record_candidate("Rejected", stop.reason, stop.message, warning=True)
    turn.set(candidate=None, step=None, evidence=[])
    turn.say(stop.reason, stop.message)
    turn.enter(Phase.STABLE)
