"""The commit of a promotion: the candidate becomes stable, its pods untouched; only the traffic moves."""

from modelramp.api.status import Cause, Draining, Phase, StableStatus
from modelramp.domain import rollback
from modelramp.domain.moves import SHORTEST_DRAIN
from modelramp.domain.traffic import set_weight
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
    set_weight(turn, 0)
    generation = turn.status.traffic.generation
    draining = [d.model_copy(update={"generation": generation}) for d in turn.status.draining]
    until = turn.now + max(turn.snap.spec.rollout.scale_down_delay, SHORTEST_DRAIN)
    leaving = Draining(revision=former.revision, until=until, generation=generation)
    turn.set(draining=[*draining, leaving])
    settle_as_stable(turn)


def settle_as_stable(turn: Turn) -> None:
    candidate = turn.candidate
    turn.set(
        stable=StableStatus(revision=candidate.revision, version=candidate.version, since=turn.now),
        candidate=None,
        step=None,
        evidence=[],
        back_off=None,
        rejected=[r for r in turn.status.rejected if r.revision != candidate.revision],
    )
    turn.say("Serving", f"version {candidate.version} serves")
    turn.enter(Phase.STABLE)
