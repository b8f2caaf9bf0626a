"""Relay: stable's pods hand the candidate its share, as an annotation of theirs says (docs/contract.md, "The split").

A weight is in force when every ready stable pod acts on the generation that carries it. The annotation expires: it is
renewed every third of its life while there is a share, and with the operator gone all is stable's again (ADR 3).
"""

from collections.abc import Mapping
from datetime import timedelta

from modelramp.api.routing import RouterKind
from modelramp.api.spec import Spec
from modelramp.api.status import Status, TrafficStatus
from modelramp.desired.meta import Body, Owner
from modelramp.desired.project import taken_back
from modelramp.desired.split import VERSION, shadow, split
from modelramp.domain.metric import by_container
from modelramp.domain.router import RouteKind, Tally, Trouble
from modelramp.domain.share import held
from modelramp.domain.turn import Turn
from modelramp.domain.world import Pod, PodMetrics, World

RENEWALS_PER_TTL = 3
REMINDER = timedelta(seconds=10)
"""So long may a stable pod take to act on a weight before it is told again. Now and then a kubelet brings a pod no word
of a change before its own next look at it, 60 to 90 s later (kubernetes/kubernetes#59873); of the next one it does."""


class Relay:
    name = RouterKind.RELAY
    kinds: tuple[RouteKind, ...] = ()
    follows = timedelta(0)

    def trouble(self, turn: Turn) -> Trouble | None:
        return None

    def reachable(self, turn: Turn, revision: str) -> int:
        return turn.world.ready(revision)

    def in_force(self, turn: Turn) -> bool:
        """Every ready stable pod acts on the present weight, and there is one."""
        ready = _ready_stable_pods(turn)
        return bool(ready) and all(pod.metrics is not None and _acts(pod.metrics, turn.status.traffic) for pod in ready)

    def awaited(self, turn: Turn) -> str:
        share = held(turn.status)
        return f"every stable pod to {f'act on {share}' if share.load else 'take its share back'}"

    def unable(self, turn: Turn) -> str:
        """A server of an image without a relay, or one older than the split's format."""
        for pod in _ready_stable_pods(turn):
            if pod.metrics is not None and pod.metrics.split_version < VERSION:
                return f"the server of stable's pod {pod.name} knows no split of format {VERSION}"
        return ""

    def lapsed(self, turn: Turn) -> bool:
        """Away for longer than the ttl: the pods have taken the share back, and nothing has been in force since."""
        renewed_at = turn.status.traffic.renewed_at
        return renewed_at is not None and turn.now - renewed_at > turn.snap.policy.traffic_ttl

    def withdrawn(self, turn: Turn) -> bool:
        """No stable pod hands anything over any more: all have said so, or whatever they last heard has expired.

        A container that has restarted acts on no generation (0) until it hears a newer one: it hands over nothing
        either.
        """
        traffic = turn.status.traffic
        ready = _ready_stable_pods(turn)
        said_so = all(
            pod.metrics is not None
            and pod.metrics.weight == 0
            and (pod.metrics.generation == 0 or pod.metrics.generation >= traffic.weight_generation)
            for pod in ready
        )
        if (ready and said_so) or traffic.renewed_at is None:
            return True
        return turn.over(traffic.renewed_at, turn.snap.policy.traffic_ttl)

    def released(self, turn: Turn) -> bool:
        """Former stable pods get their requests from clients only."""
        return True

    def renew(self, turn: Turn) -> None:
        """A new generation every third of the ttl; sooner while a stable pod says that it does not act on it."""
        traffic = turn.status.traffic
        if not traffic.live:
            return _remind(turn)
        interval = turn.snap.policy.traffic_ttl / RENEWALS_PER_TTL
        if any(pod.metrics and not _acts(pod.metrics, traffic) for pod in _ready_stable_pods(turn)):
            interval = min(interval, REMINDER)
        if traffic.renewed_at is None or turn.over(traffic.renewed_at, interval):
            turn.set(traffic=traffic.model_copy(update={"generation": traffic.generation + 1, "renewed_at": turn.now}))
            turn.wake_in(interval)

    def counting(self, status: Status) -> tuple[str, ...]:
        return (status.stable.revision,) if status.stable else ()

    def tally(self, turn: Turn) -> Tally:
        """Stable's pods count both sides, by the attempt's salt: whatever they have under it is the attempt's."""
        pods = tuple(pod for pod in turn.world.pods_of(turn.stable_revision) if pod.metrics is not None)
        counters = by_container(pods, turn.candidate.salt)
        return Tally(pods, counters, born=counters.keys(), missing=not pods)

    def objects(self, owner: Owner, spec: Spec, status: Status, world: World) -> tuple[Body, ...]:
        return ()

    def splits(self, owner: Owner, spec: Spec, status: Status, world: World, ttl: timedelta) -> Mapping[str, str]:
        """A pod that is born meanwhile gets it once it is ready: a split that its server found at its start would be an
        old one to it (docs/contract.md), and it would wait for the next generation."""
        traffic, candidate, stable = status.traffic, status.candidate, status.stable
        if not (stable and candidate and status.step):
            return taken_back(status, world, ttl)
        stickiness = spec.traffic.stickiness
        header = stickiness.header if stickiness else None
        copies = shadow(traffic.shadow, spec.rollout.shadow) if traffic.shadow else None
        value = split(traffic.generation, candidate.revision, traffic.weight, candidate.salt, ttl, header, copies)
        return {pod.name: value for pod in world.pods_of(stable.revision) if pod.ready or pod.split}


def _acts(metrics: PodMetrics, traffic: TrafficStatus) -> bool:
    """Whether a pod says that it acts on the present weight."""
    return (
        metrics.generation >= traffic.weight_generation
        and metrics.weight == traffic.weight
        and (metrics.shadow or 0) == traffic.shadow
    )


def _remind(turn: Turn) -> None:
    """Of a weight of 0. It is no new one, and does not prolong what the pods heard before it."""
    traffic = turn.status.traffic
    reminders = traffic.generation - traffic.weight_generation
    if traffic.renewed_at is not None and turn.over(traffic.renewed_at + reminders * REMINDER, REMINDER):
        turn.set(traffic=traffic.model_copy(update={"generation": traffic.generation + 1}))


def _ready_stable_pods(turn: Turn) -> list[Pod]:
    return [pod for pod in turn.world.pods_of(turn.stable_revision) if pod.ready]


ROUTER = Relay()
