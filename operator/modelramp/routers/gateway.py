"""Gateway: an HTTPRoute shares the requests between the revisions' Services, and Gateways act on it (Gateway API v1).

The HTTPRoute is ours whole: its rules are an atomic list. A weight is in force when the route has it and every parent
has accepted that very generation. Nothing expires, and nobody answers for a candidate that fails (ADR 22). Each pod
counts what it has answered itself; a server that died took its counters with it, so its death counts as a bad answer.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from modelramp.api.routing import ParentRef, RouterKind
from modelramp.api.spec import Spec
from modelramp.api.status import Status
from modelramp.desired.meta import PORT, Body, Owner
from modelramp.desired.project import taken_back
from modelramp.domain.metric import NO_SPLIT, by_container, refusals_as_bad
from modelramp.domain.router import RouteKind, Tally, Trouble
from modelramp.domain.traffic import FULL
from modelramp.domain.turn import Turn
from modelramp.domain.world import Pod, SplitCounts, World

HTTP_ROUTE = RouteKind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes", whole="rules")
AGREED = ("Accepted", "ResolvedRefs")
ALL_PATHS = {"path": {"type": "PathPrefix", "value": "/"}}

Route = Mapping[str, Any]


class Gateway:
    name = RouterKind.GATEWAY
    kinds = (HTTP_ROUTE,)
    follows = timedelta(seconds=5)  # of the proxies: Traefik's wait up to 2 s, and longer on a busy node

    # Does the world hold the weight?

    def trouble(self, turn: Turn) -> Trouble | None:
        if unusable := turn.world.unusable.get(HTTP_ROUTE.kind):
            return Trouble("RouterUnavailable", unusable)
        refused = [told for route in turn.world.routes for told in _against(route)]
        return Trouble("RouteNotAccepted", "; ".join(refused)) if refused else None

    def reachable(self, turn: Turn, revision: str) -> int:
        """Nobody answers for a share that finds no endpoint, so a pod counts once its Service has it."""
        return min(turn.world.ready(revision), turn.world.endpoints.get(revision, 0))

    def in_force(self, turn: Turn) -> bool:
        routes = turn.world.routes
        wanted = shares(turn.status)
        return any(_shares_of(route) == wanted and not list(_silent(route)) for route in routes)

    def awaited(self, turn: Turn) -> str:
        silent = [name for route in turn.world.routes for name in _silent(route)]
        weight = turn.status.traffic.weight
        others = "the Gateways' proxies" if self.in_force(turn) else "the HTTPRoute"
        return f"{', '.join(silent) or others} to {f'act on {weight} %' if weight else 'take the share back'}"

    def unable(self, turn: Turn) -> str:
        """It takes nothing of the servers."""
        return ""

    def lapsed(self, turn: Turn) -> bool:
        """Somebody else has changed the weights (project() puts them back), or a Gateway has not taken over yet what
        else has changed."""
        found = [_shares_of(route) for route in turn.world.routes]
        if found != [shares(turn.status)]:
            shown = "; ".join(", ".join(f"{revision}: {weight}" for revision, weight in it.items()) for it in found)
            message = f"the HTTPRoute had other weights than {turn.status.traffic.weight} % ({shown or 'no route'})"
            turn.tell("WeightPutBack", f"{message}: put back; the step is held meanwhile", warning=True)
        return not self.in_force(turn)

    def withdrawn(self, turn: Turn) -> bool:
        """Without a route, nothing goes anywhere. However long the Gateways take, they may still send requests."""
        return not turn.world.routes or self.in_force(turn)

    def released(self, turn: Turn) -> bool:
        """As for a candidate: after a rollback the Gateways may still know the revision that went bad."""
        return self.withdrawn(turn)

    def renew(self, turn: Turn) -> None:
        """Weights do not expire; but no watch may tell of what becomes of them."""
        turn.wake_in(turn.snap.policy.look_interval)

    # What has each side counted?

    def counting(self, status: Status) -> tuple[str, ...]:
        sides = (status.stable, status.candidate)
        return tuple(side.revision for side in sides if side)

    def tally(self, turn: Turn) -> Tally:
        """Pods count for as long as they live, so the first look at which both sides tell is a baseline of all of them,
        and a later one of those that are older than the attempt: no look has one side's requests without the other's.
        While a side does not tell, nothing is taken over, and the deaths of that time count at the next look. What a
        pod refuses is bad, for its client gets that."""
        stables, candidates = turn.world.pods_of(turn.stable_revision), turn.world.pods_of(turn.candidate.revision)
        stable, candidate = refusals_as_bad(stables), refusals_as_bad(candidates)
        if not (stable and candidate):
            return Tally(stable, {}, (), missing=True)
        counters = {
            **by_container(stable, NO_SPLIT),
            **{name: _as_candidate(counts) for name, counts in by_container(candidate, NO_SPLIT).items()},
            **{f"{pod.name}@deaths": SplitCounts(stable_bad=pod.restarts) for pod in stables},
            **{f"{pod.name}@deaths": SplitCounts(candidate_bad=pod.restarts) for pod in candidates},
        }
        compared = any(each.requests or each.stable_requests for each in turn.status.evidence)
        born = _born((*stable, *candidate), turn.candidate.started_at) if compared else set()
        partial = any(pod.ready and pod.metrics is None for pod in (*stables, *candidates))
        return Tally(stable, counters, born, missing=False, partial=partial)

    # By what objects and annotations does it come to hold it?

    def objects(self, owner: Owner, spec: Spec, status: Status, world: World) -> tuple[Body, ...]:
        if HTTP_ROUTE.kind in world.unusable or spec.traffic.gateway is None:
            return ()
        wanted = spec.traffic.gateway
        refs = [_backend(owner, revision, weight) for revision, weight in shares(status).items()]
        body: Body = {
            "apiVersion": HTTP_ROUTE.api_version,
            "kind": HTTP_ROUTE.kind,
            "metadata": owner.metadata(owner.name),
            "spec": {
                "parentRefs": [_parent(ref) for ref in wanted.parent_refs],
                "rules": [{"matches": [ALL_PATHS], "backendRefs": refs}],
            },
        }
        if wanted.hostnames:
            body["spec"]["hostnames"] = wanted.hostnames
        return (body,)

    def splits(self, owner: Owner, spec: Spec, status: Status, world: World, ttl: timedelta) -> Mapping[str, str]:
        """None; but what the Relay has left with stable's pods is taken back."""
        return taken_back(status, world, ttl)


def shares(status: Status) -> dict[str, int]:
    """Percent by revision; a revision without any is left out, for a client's session would outlive a weight of 0."""
    weight = status.traffic.weight if status.candidate else 0
    shared = {status.stable.revision: FULL - weight} if status.stable else {}
    if status.candidate:
        shared[status.candidate.revision] = weight
    return {revision: share for revision, share in shared.items() if share}


def _backend(owner: Owner, revision: str, weight: int) -> Body:
    """With what the API server would fill in, so that nothing can be added unseen."""
    return {"group": "", "kind": "Service", "name": owner.child(revision), "port": PORT, "weight": weight}


def _parent(ref: ParentRef) -> Body:
    return ref.model_dump(by_alias=True, exclude_none=True)


def _shares_of(route: Route) -> dict[str, int]:
    """Of the route as it stands. What is not ours to read as shares is none."""
    rules = route["spec"].get("rules", ())
    refs = rules[0].get("backendRefs", ()) if len(rules) == 1 else ()
    return {ref["name"].rpartition("-")[2]: ref.get("weight", 1) for ref in refs}


def _words(route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each parent by its name, and its conditions that speak of the present generation, by type."""
    generation = route["metadata"].get("generation", 0)
    entries = route.get("status", {}).get("parents", ())
    for ref in route["spec"].get("parentRefs", ()):
        said = {
            condition["type"]: condition
            for entry in entries
            if all(entry["parentRef"].get(field) == value for field, value in ref.items())
            for condition in entry.get("conditions", ())
            if condition.get("observedGeneration", 0) >= generation
        }
        listener = f" ({ref['sectionName']})" if "sectionName" in ref else ""
        yield f"Gateway {ref['name']}{listener}", said


def _silent(route: Route) -> Iterator[str]:
    """Parents that have not taken over the route as it stands."""
    for name, said in _words(route):
        if any(said.get(kind, {}).get("status") != "True" for kind in AGREED):
            yield name


def _against(route: Route) -> Iterator[str]:
    """What parents say against the route as it stands, and those that never said anything."""
    for name, said in _words(route):
        for kind in AGREED:
            it = said.get(kind, {})
            if it.get("status") == "False":
                yield f"{name}: {kind} is False ({it.get('reason', '')}): {it.get('message', '')}"
    if not route.get("status", {}).get("parents"):
        yield "no controller has answered for the HTTPRoute: see that its Gateways exist and are programmed"


def _as_candidate(own: SplitCounts) -> SplitCounts:
    """What a pod of the candidate has counted as its own answers."""
    return SplitCounts(
        candidate_ok=own.stable_ok,
        candidate_bad=own.stable_bad,
        candidate_service=own.stable_service,
        candidate_classes=own.stable_classes,
    )


def _born(pods: Iterable[Pod], attempt: datetime) -> set[str]:
    """Containers whose server has started since the attempt began."""
    started = ((pod.name, pod.metrics.started) for pod in pods if pod.metrics)
    return {f"{name}@{moment:.0f}" for name, moment in started if moment > attempt.timestamp()}


ROUTER = Gateway()
