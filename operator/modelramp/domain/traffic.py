"""Which weight is wanted, and the sizes that go with it. How it gets into force is the router's (docs/routers.md)."""

import math
from datetime import timedelta

from modelramp.api.spec import Spec
from modelramp.api.status import Phase, Status, TrafficStatus
from modelramp.domain.share import held, in_hand
from modelramp.domain.turn import Turn

FULL = 100
POLL = timedelta(seconds=1)  # between two askings whether a weight is in force


def salt(uid: str, revision: str, generation: int) -> str:
    """Names an attempt in the pods' counters, and chooses which users are tried first. Generations only grow, so no
    two attempts that had traffic share one."""
    return f"{uid[:8]}-{revision}-{generation}"


def set_weight(turn: Turn, weight: int, shadow: int = 0) -> None:
    """Writes down a new weight under a new generation; the pods hear of it after the status stands."""
    traffic, step = turn.status.traffic, turn.status.step
    generation = traffic.generation + 1
    written = {"generation": generation, "weight_generation": generation, "renewed_at": turn.now}
    turn.set(traffic=TrafficStatus(router=turn.snap.router.name, weight=weight, shadow=shadow, **written))
    turn.set(step=step and step.model_copy(update={"accepted_since": None, "in_force_since": None}))


def keep(turn: Turn) -> None:
    """Follows the router that is asked for, and notes it where a weight that was in force is so no more."""
    _follow(turn)
    step, router = turn.status.step, turn.snap.router
    if step is None or step.in_force_since is None or not turn.status.traffic.live:
        return
    if router.lapsed(turn):
        turn.set(step=step.model_copy(update={"in_force_since": None}))


def _follow(turn: Turn) -> None:
    """Another router is asked for than carried the weight so far: it carries the same under a new generation, and as it
    counts by other means, the evidence begins anew."""
    traffic, router = turn.status.traffic, turn.snap.router.name
    if traffic.router is router:
        return
    if turn.status.step is None:
        return turn.set(traffic=traffic.model_copy(update={"router": router}))
    turn.tell("RouterChanged", f"{traffic.weight} % go by {router} now, no longer by {traffic.router}")
    set_weight(turn, traffic.weight)
    uncounted = {"counted_requests": 0, "counted_candidate": 0}
    turn.set(step=turn.status.step.model_copy(update=uncounted), evidence=[])


def full_size(spec: Spec, status: Status) -> int:
    """Pods that carry the whole load: the spec's number, or under an autoscaler the floor."""
    scaling = spec.scaling
    if not scaling.autoscaled:
        return scaling.base_size
    return max([scaling.base_size, *(side.floor for side in (status.stable, status.candidate) if side)])


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
