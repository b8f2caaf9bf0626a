"""Back to a former stable: while its pods are warm at once, later as a candidate that needs no proof.

After a promotion what serves now is watched for as long as the former pods stay (``scaleDownDelay``). There is nobody
to compare it with any more, so its error rate is tested against what was acceptable in the rollout.
"""

from modelramp.api.status import (
    MAX_FORMER,
    Cause,
    FormerStatus,
    GuardStatus,
    Phase,
    Rejected,
    StableStatus,
)
from modelramp.domain import moves
from modelramp.domain.counts import NOTHING, Counts, interval
from modelramp.domain.errors import accepted, count
from modelramp.domain.evidence import Settings, update
from modelramp.domain.metric import NO_SPLIT, Memory, by_container, refusals_as_bad
from modelramp.domain.snapshot import Target
from modelramp.domain.turn import Turn
from modelramp.domain.verdict import Outcome, verdict

SIDE = "local"  # the one side that there is; named by the same rule as errors.SIDES


def remember(turn: Turn) -> None:
    """What is stable is about to be a former stable."""
    stable = turn.stable
    entry = FormerStatus(revision=stable.revision, version=stable.version, demoted_at=turn.now)
    others = [f for f in turn.status.former if f.revision != stable.revision]
    turn.set(former=[*others, entry][-MAX_FORMER:])


def forget(turn: Turn) -> None:
    """What came back is no former stable, nor is what left too long ago."""
    window, serving = turn.snap.spec.rollout.rollback_window, turn.stable_revision
    turn.set(former=[f for f in turn.status.former if f.revision != serving and not turn.over(f.demoted_at, window)])


def begin_guard(turn: Turn) -> None:
    """At the commit of a promotion, while the evidence of the rollout still stands."""
    former, candidate = turn.stable, turn.candidate
    if candidate.direct or not turn.world.ready(former.revision):
        return  # somebody wanted to go back, or there is nothing to go back to
    memory = Memory(accepted(turn), {SIDE: local_counts(turn, candidate.revision)})
    guard = GuardStatus(
        former=former.revision,
        former_version=former.version,
        cause=candidate.cause,
        until=turn.now + turn.snap.spec.rollout.scale_down_delay,
        state=memory.dump(),
    )
    turn.set(guard=guard)


def gone_bad(turn: Turn) -> bool:
    """What has just been promoted fails its requests, or its pods: back to the former stable, whose pods are warm."""
    guard = turn.status.guard
    if guard is None:
        return False
    if turn.over(guard.until, moves.NO_TIME) or not turn.world.ready(guard.former):
        turn.set(guard=None)
        return False
    revision = turn.stable.revision
    fault = turn.world.fault(revision)
    if fault is not None and fault.models_own:
        back(turn, Target(guard.former, guard.former_version), fault.reason, fault.message)
        return True
    message = _look(turn, guard, revision)
    if message:
        back(turn, Target(guard.former, guard.former_version), "AnalysisFailed", message)
    return bool(message)


def lower_floor(turn: Turn) -> None:
    """What came back has been large enough for long enough: the autoscaler knows better by now."""
    stable = turn.status.stable
    if stable is not None and stable.floor and turn.over(stable.since, turn.snap.spec.rollout.scale_down_delay):
        turn.set(stable=stable.model_copy(update={"floor": 0}))


def _look(turn: Turn, guard: GuardStatus, revision: str) -> str:
    """One look if it is due; the reason if it is a Fail."""
    interval_between = turn.snap.policy.look_interval
    if guard.looked_at is not None and not turn.over(guard.looked_at, interval_between):
        return ""
    turn.wake_in(interval_between)
    asked = turn.snap.spec.rollout.analysis
    settings = Settings(alpha=asked.alpha, objective=asked.objectives.error_rate)
    memory = Memory.load(guard.state, (SIDE,))
    now = local_counts(turn, revision)
    fresh = interval(memory.counters[SIDE], now)
    before = Memory.load(guard.state, ()).state  # what the rollout has accepted holds on, whoever counts how
    state = update(before, fresh, NOTHING, before.dispersion, settings) if fresh.requests else before
    remembered = memory.advance(state, {SIDE: now}, {}, turn.world.pods)
    turn.set(guard=guard.model_copy(update={"looked_at": turn.now, "state": remembered}))
    judged = verdict(state, settings)
    return judged.reason if judged.outcome is Outcome.FAIL else ""


def local_counts(turn: Turn, revision: str) -> dict[str, Counts]:
    """What each container of a revision has answered itself."""
    answered = by_container(refusals_as_bad(turn.world.pods_of(revision)), NO_SPLIT)
    return {container: count("stable", counts) for container, counts in answered.items()}


def back(turn: Turn, warm: Target, reason: str, message: str) -> None:
    """The former stable's warm pods serve again; what they take over from is rejected, and hands over to them. If an
    autoscaler made it larger meanwhile, they become as many."""
    bad, cause = turn.stable, turn.status.guard.cause if turn.status.guard else Cause.ALIAS
    moves.drain(turn, bad.revision, warm.revision)
    moves.lift(turn, warm.revision)
    workload = turn.world.workloads.get(bad.revision)
    floor = workload.replicas if workload and turn.snap.spec.scaling.autoscaled else 0
    stable = StableStatus(revision=warm.revision, version=warm.version, since=turn.now, floor=floor)
    turn.set(stable=stable, guard=None)
    reject(turn, bad, cause, reason, message)
    story = f"version {warm.version} serves again: version {bad.version}: {message}"
    turn.record("RolledBack", reason, story, warm.revision, warm.version, 1, warning=True)
    turn.say("Serving", f"version {warm.version} serves")
    turn.enter(Phase.STABLE)


def reject(turn: Turn, left: StableStatus, cause: Cause, reason: str, message: str) -> None:
    entry = Rejected(
        revision=left.revision, version=left.version, reason=reason, message=message, cause=cause, at=turn.now
    )
    moves.reject(turn, entry)


def command(turn: Turn, revision: str) -> bool:
    """``rollback``: names the former stable to go to. False if there is no such, or a rollout is on its way."""
    former = next((f for f in turn.status.former if f.revision == revision), None)
    if former is None or turn.status.phase is not Phase.STABLE:
        return False
    if turn.world.ready(revision):
        back(turn, Target(former.revision, former.version), "RollbackCommanded", "rolled back by command")
        return True
    if revision not in turn.world.revisions:
        return False
    moves.begin(turn, Target(former.revision, former.version), Phase.GATING, Cause.COMMAND)
    return True
