"""decide(): what the operator makes of what it has seen. Reads like the table in docs/rollouts.md.

Pure: no client, no clock, no event loop. One call moves an object by one step at most; the status it returns is
persisted before anything acts on it, and a phase is left only when the world has been *observed* to be what that
phase wanted. So a kill between any two writes leads back to the same road.
"""

from modelramp.api.status import Phase
from modelramp.domain import (
    admission,
    checks,
    commands,
    conditions,
    moves,
    phases,
    recall,
    rollback,
    takeover,
    traffic,
)
from modelramp.domain.snapshot import Decision, Snapshot
from modelramp.domain.turn import Turn
from modelramp.domain.world import Resolved, Unreachable, Unresolved

PHASES = {
    Phase.PENDING: phases.pending,
    Phase.STABLE: phases.stable,
    Phase.GATING: phases.gating,
    Phase.RAMPING: phases.ramping,
    Phase.PAUSED: phases.paused,
    Phase.PROMOTING: phases.promoting,
    Phase.ABORTING: phases.aborting,
}
SPLIT_HELD = (Phase.RAMPING, Phase.PAUSED, Phase.PROMOTING)


def decide(snapshot: Snapshot) -> Decision:
    """The next status, the events that tell of it, and when to look again (None: when something happens)."""
    turn = Turn(snapshot)
    recall.rebase_times(turn)
    recall.adopt(turn)
    registry(turn)
    traffic.keep(turn)
    traffic.raise_floor(turn)
    checks.note_stable(turn)
    if not suspended(turn) and not commands.obey(turn) and not commands.approved(turn):
        PHASES[turn.status.phase](turn)
    router = turn.snap.router
    if turn.status.phase in SPLIT_HELD and (turn.status.traffic.live or not router.withdrawn(turn)):
        router.renew(turn)
    moves.account_for_holds(turn)
    moves.retire(turn)
    rollback.forget(turn)
    rollback.lower_floor(turn)
    takeover.take_over(turn)
    observed(turn)
    conditions.conclude(turn)
    return turn.decision()


def suspended(turn: Turn) -> bool:
    """Nothing advances, nothing is aborted; the weight is held, and no deadline counts the time."""
    since = turn.status.suspended_since
    if turn.snap.spec.suspend:
        turn.set(suspended_since=since or turn.now)
        turn.say("Suspended", "spec.suspend is set: nothing advances, nothing is aborted")
        return True
    if since is not None:
        turn.set(suspended_since=None)
        if turn.status.candidate is not None and turn.candidate.pause is None:  # a pause counts its own time
            moves.idled(turn, since)
    return False


def registry(turn: Turn) -> None:
    """What the registry said, or since when it has said nothing."""
    before, resolution = turn.status.registry, turn.snap.resolution
    if isinstance(resolution, Unreachable):
        answered = before.resolved_version is not None and not before.error
        since = turn.now if answered else before.last_success
        turn.set(registry=before.model_copy(update={"error": resolution.message, "last_success": since}))
        if not before.error:
            turn.tell("RegistryUnavailable", resolution.message, warning=True)
        return
    if before.error and resolution is not None:
        turn.tell("RegistryBack", "the registry answers again")
    if resolution is None:
        return
    version = turn.snap.target.version if turn.snap.target else None
    unresolved = resolution.reason if isinstance(resolution, Unresolved) else ""
    heard = {"error": None, "last_success": None, "resolved_version": version, "unresolved": unresolved}
    turn.set(registry=before.model_copy(update=heard))
    if isinstance(resolution, Unresolved) and before.unresolved != unresolved:
        turn.tell(resolution.reason, resolution.message, warning=True)


def observed(turn: Turn) -> None:
    """What /scale and people read, and which generation of the spec this status speaks of: one whose model the
    registry has not been heard of yet, or whose rollout waits for its turn, has not been observed."""
    revision = turn.stable_revision
    heard = isinstance(turn.snap.resolution, Resolved | Unresolved) and not admission.waits(turn) and not to_come(turn)
    turn.set(
        observed_generation=turn.snap.generation if heard else turn.status.observed_generation,
        replicas=len(turn.world.pods_of(revision)) if revision else 0,
        selector=f"modelramp.dev/revision={revision}" if revision else "",
    )


def to_come(turn: Turn) -> bool:
    """What is asked for has not been begun, while what it supersedes is taken back."""
    target, status = turn.snap.target, turn.status
    if target is None or turn.snap.spec.suspend:
        return False
    known = {it.revision for it in (status.stable, status.candidate, status.back_off, *status.rejected) if it}
    return target.revision not in known
