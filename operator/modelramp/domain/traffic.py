"""The split: which weight is wanted, whether it is in force, when its dead-man's switch must be renewed; and sizes.

A weight is in force when every ready stable pod acts on the generation that carries it (docs/contract.md).
"""

import math
from datetime import timedelta

from modelramp.api.spec import Spec
from modelramp.api.status import Phase, Status, TrafficStatus
from modelramp.domain.share import held, in_hand
from modelramp.domain.turn import Turn
from modelramp.domain.world import Pod

SPLIT_VERSION = 1  # of the split's format: docs/contract.md
FULL = 100
RENEWALS_PER_TTL = 3
POLL = timedelta(seconds=1)  # between two askings of the pods which generation they act on


def salt(uid: str, revision: str, generation: int) -> str:
    """Names an attempt in the pods' counters, and chooses which users are tried first. Generations only grow, so no
    two attempts that had traffic share one."""
    return f"{uid[:8]}-{revision}-{generation}"


def set_weight(turn: Turn, weight: int, shadow: int = 0) -> None:
    """Writes down a new weight under a new generation; the pods hear of it after the status stands."""
    traffic = turn.status.traffic
    generation = traffic.generation + 1
    changes = {"generation": generation, "weight_generation": generation, "renewed_at": turn.now}
    turn.set(traffic=TrafficStatus(weight=weight, shadow=shadow, **changes))


def renew(turn: Turn) -> None:
    """Keeps the present weight alive in the pods: a new generation every third of the ttl."""
    traffic = turn.status.traffic
    interval = turn.snap.policy.traffic_ttl / RENEWALS_PER_TTL
    if traffic.renewed_at is None or turn.over(traffic.renewed_at, interval):
        turn.set(traffic=traffic.model_copy(update={"generation": traffic.generation + 1, "renewed_at": turn.now}))
        turn.wake_in(interval)


def lapse(turn: Turn) -> None:
    """Away for longer than the ttl: the pods have taken the share back, and nothing has been in force since."""
    traffic, step = turn.status.traffic, turn.status.step
    if step is None or step.in_force_since is None or not traffic.live or traffic.renewed_at is None:
        return
    if turn.now - traffic.renewed_at > turn.snap.policy.traffic_ttl:
        turn.set(step=step.model_copy(update={"in_force_since": None}))


def ready_stable_pods(turn: Turn) -> list[Pod]:
    return [pod for pod in turn.world.pods_of(turn.stable_revision) if pod.ready]


def acknowledged(turn: Turn) -> bool:
    """Every ready stable pod acts on the present weight, and there is one."""
    traffic = turn.status.traffic
    ready = ready_stable_pods(turn)
    return bool(ready) and all(
        pod.metrics is not None
        and pod.metrics.generation >= traffic.weight_generation
        and pod.metrics.weight == traffic.weight
        and (pod.metrics.shadow or 0) == traffic.shadow
        for pod in ready
    )


def withdrawn(turn: Turn) -> bool:
    """No stable pod hands anything over any more: all have said so, or whatever they last heard has expired.

    A container that has restarted acts on no generation (0) until it hears a newer one: it hands over nothing either.
    """
    traffic = turn.status.traffic
    ready = ready_stable_pods(turn)
    said_so = all(
        pod.metrics is not None
        and pod.metrics.weight == 0
        and (pod.metrics.generation == 0 or pod.metrics.generation >= traffic.weight_generation)
        for pod in ready
    )
    if (ready and said_so) or traffic.renewed_at is None:
        return True
    turn.wake_in(POLL)
    return turn.over(traffic.renewed_at, turn.snap.policy.traffic_ttl)


def full_size(spec: Spec, status: Status) -> int:
    """Pods that carry the whole load: the spec's number, or under an autoscaler the floor."""
    scaling = spec.scaling
    if not scaling.autoscaled:
        return scaling.base_size
    return max(status.candidate.floor if status.candidate else 0, scaling.base_size)


def size_for(spec: Spec, status: Status, weight: int) -> int:
    """Candidate pods that carry `weight` percent of the load; one at least."""
    return max(1, math.ceil(full_size(spec, status) * weight / 100))


def candidate_size(spec: Spec, status: Status) -> int:
    """The candidate's pods now: for the weight that its step wants, or that it has if that is more; for the whole
    load if it is the first revision, a former stable that comes back, about to be promoted, or if stable is down."""
    candidate = status.candidate
    if (
        status.stable is None
        or status.phase is Phase.PROMOTING
        or (candidate and (candidate.direct or candidate.whole))
    ):
        return full_size(spec, status)
    wanted = in_hand(status).load if status.step else first_load(spec)
    return size_for(spec, status, max(wanted, held(status).load))


def first_load(spec: Spec) -> int:
    """Percent of the requests that the candidate must carry first."""
    return next((load for step in spec.rollout.steps if (load := step.weight or step.shadow)), FULL)


def raise_floor(turn: Turn) -> None:
    """Stable must be able to take everything back at any instant. When the autoscaler wants more of it than the floor
    in force, then for the share that stable has now; the whole load needs observed size / (1 - weight)."""
    candidate, scaling = turn.status.candidate, turn.snap.spec.scaling
    workload = turn.world.workloads.get(turn.stable_revision or "")
    if candidate is None or workload is None or not scaling.autoscaled:
        return
    weight = turn.status.traffic.weight
    if workload.replicas <= max(candidate.floor, scaling.base_size) or weight >= FULL:
        return
    whole = math.ceil(workload.replicas * FULL / (FULL - weight))
    raised = max(workload.replicas, min(whole, scaling.max_replicas or whole))
    turn.set(candidate=candidate.model_copy(update={"floor": raised}))
