"""Conditions as kstatus reads them (kubernetes-sigs/cli-utils).

Ready says that the stable revision serves; all others stand only while True, so that nothing healthy shows a False.
"""

from modelramp.api.status import Cause, Condition, Phase
from modelramp.domain import causes, moves, queries
from modelramp.domain.turn import Turn
from modelramp.domain.world import Resolved, Unreachable, Unresolved


def conclude(turn: Turn) -> None:
    """Derives all conditions from the status and the world as they stand."""
    wanted = [ready(turn), *filter(None, (rule(turn) for rule in ABNORMAL))]
    turn.set(conditions=[_keep_time(turn, condition) for condition in [*wanted, *_still_standing(turn, wanted)]])


def ready(turn: Turn) -> Condition:
    stable = turn.status.stable
    if stable is None:
        return _condition(turn, "Ready", turn.status.reason or "Pending", turn.status.message, status="False")
    pods = turn.world.ready(stable.revision)
    if not pods:
        message = f"no pod of version {stable.version} (revision {stable.revision}) is ready"
        return _condition(turn, "Ready", "NoReadyPods", message, status="False")
    return _condition(turn, "Ready", "Serving", f"version {stable.version} (revision {stable.revision}) serves")


def reconciling(turn: Turn) -> Condition | None:
    """A rollout that Git caused holds this until it has settled, so that waiting for it means something."""
    candidate = turn.status.candidate
    if candidate is not None and candidate.cause is Cause.SPEC and not _starved(turn):
        return _condition(turn, "Reconciling", turn.status.reason or "Progressing", turn.status.message)
    if candidate is None and _spec_is_tried_again(turn):
        return _condition(turn, "Reconciling", turn.status.reason, turn.status.message)
    if turn.status.stable is None and candidate is None:
        return _condition(turn, "Reconciling", turn.status.reason or "Pending", turn.status.message)
    return None


def stalled(turn: Turn) -> Condition | None:
    target = turn.snap.target
    rejected = next((r for r in turn.status.rejected if target and r.revision == target.revision), None)
    if rejected is not None and rejected.cause is Cause.SPEC and turn.status.candidate is None:
        return _condition(turn, "Stalled", rejected.reason, rejected.message)
    if _starved(turn):
        return _condition(turn, "Stalled", turn.status.reason, turn.status.message)
    return None


def rollout_progressing(turn: Turn) -> Condition | None:
    candidate = turn.status.candidate
    if candidate is None or candidate.cause is not Cause.ALIAS:
        return None
    message = f"version {candidate.version}: {turn.status.message}"
    return _condition(turn, "RolloutProgressing", turn.status.phase.value, message)


def degraded(turn: Turn) -> Condition | None:
    """What is asked for is not what serves, and nobody is working on it."""
    target, status = turn.snap.target, turn.status
    if status.candidate is not None:
        return None
    rejected = next((r for r in status.rejected if target and r.revision == target.revision), None)
    if rejected is not None:
        message = f"version {rejected.version} was rejected: {rejected.message}"
        return _condition(turn, "Degraded", rejected.reason, message)
    if isinstance(turn.snap.resolution, Unresolved):
        return _condition(turn, "Degraded", turn.snap.resolution.reason, turn.snap.resolution.message)
    if target is not None and causes.tried_again(turn, target):
        return _condition(turn, "Degraded", status.reason, status.message)
    return None


def registry_unavailable(turn: Turn) -> Condition | None:
    if isinstance(turn.snap.resolution, Unreachable):
        return _condition(turn, "RegistryUnavailable", "RegistryUnavailable", turn.snap.resolution.message)
    return None


def service_not_adopted(turn: Turn) -> Condition | None:
    service = turn.status.service
    if service is None or service.since is not None:
        return None
    return _condition(turn, "ServiceNotAdopted", service.reason, service.message)


def service_contested(turn: Turn) -> Condition | None:
    service = turn.status.service
    if service is None or service.contested_at is None:
        return None
    return _condition(turn, "ServiceContested", "SelectorChanged", service.message)


def router_unavailable(turn: Turn) -> Condition | None:
    """Stable serves all the same, by the main Service; but the clients of the router's way may not reach it."""
    trouble = turn.snap.router.trouble(turn)
    return trouble and _condition(turn, "RouterUnavailable", *trouble)


def query_refused(turn: Turn) -> Condition | None:
    """Said before a rollout meets it."""
    refused = queries.refusal(turn)
    return _condition(turn, "QueryRefused", refused.reason, refused.message) if refused else None


ABNORMAL = (
    reconciling,
    stalled,
    rollout_progressing,
    degraded,
    registry_unavailable,
    service_not_adopted,
    service_contested,
    router_unavailable,
    query_refused,
)


def _still_standing(turn: Turn, wanted: list[Condition]) -> list[Condition]:
    """With no word from the registry, what it led to stands as it stood."""
    if isinstance(turn.snap.resolution, Resolved | Unresolved) or turn.status.candidate is not None:
        return []
    known = {condition.type for condition in wanted}
    return [c for c in turn.snap.status.conditions if c.type in ("Stalled", "Degraded") and c.type not in known]


def _starved(turn: Turn) -> bool:
    """A first revision that has used up its time: nothing to fall back to, so it stays, and says so."""
    candidate = turn.status.candidate
    if turn.status.phase is not Phase.PENDING or candidate is None:
        return False
    return turn.over(moves.counted_from(turn), turn.snap.spec.rollout.progress_deadline)


def _spec_is_tried_again(turn: Turn) -> bool:
    """A rollout that Git caused waits for its next try."""
    target = turn.snap.target
    if target is None or not causes.tried_again(turn, target):
        return False
    return causes.last(turn, target.revision) is Cause.SPEC


def _condition(turn: Turn, kind: str, reason: str, message: str, status: str = "True") -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=turn.now,
        observed_generation=turn.snap.generation,
    )


def _keep_time(turn: Turn, condition: Condition) -> Condition:
    before = next((c for c in turn.snap.status.conditions if c.type == condition.type), None)
    if before is None or before.status != condition.status:
        return condition
    return condition.model_copy(update={"last_transition_time": before.last_transition_time})
