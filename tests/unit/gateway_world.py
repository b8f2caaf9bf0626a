"""A simulated cluster with Gateway API: a Gateway acts on the HTTPRoute once it has accepted it, and gives each backend
its share, whether or not it has endpoints."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from modelramp.domain.world import Pod, PodMetrics, World
from modelramp.ports import Kind, Object
from tests.unit.simulation import COUNTED, KEY, SPEC, SimPod, SimulatedWorld

ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute")
GATEWAY_SPEC: dict[str, Any] = {
    **SPEC,
    "traffic": {"gateway": {"parentRefs": [{"name": "public", "namespace": "edge"}], "hostnames": ["digits.test"]}},
}

REFUSED = {"Accepted": "NoMatchingListenerHostname", "ResolvedRefs": "BackendNotFound"}


def agreed(generation: int, **refused: str) -> list[Object]:
    """A parent's conditions; ``refused`` names those that are False, with their message."""
    return [
        {
            "type": kind,
            "status": "False" if kind in refused else "True",
            "reason": REFUSED[kind] if kind in refused else kind,
            "message": refused.get(kind, ""),
            "observedGeneration": generation,
        }
        for kind in ("Accepted", "ResolvedRefs")
    ]


class GatewayWorld(SimulatedWorld):
    """``served``: requests that the Gateway has sent to each revision; ``failed``: to none of whose pods it could."""

    def __init__(self, spec: dict[str, Any] = GATEWAY_SPEC, **options: Any) -> None:
        self.unusable: dict[str, str] = {}
        self.accepts = True
        self.refusal: dict[str, str] = {}
        self.endpoints_late = 0.0  # seconds from a ready pod to its endpoint
        self.silent: set[str] = set()  # pods that do not tell what they count
        self.acts_late = 0.0  # seconds from a route's acceptance to the first request that it shares
        self.acted_on: dict[str, int] = {}
        self._accepted: dict[int, float] = {}
        self.served: dict[str, int] = {}
        self.failed = 0
        self.restarts: dict[str, int] = {}
        super().__init__(spec, **options)

    def route(self) -> Object:
        return self.children[ROUTE, KEY.name]

    def shares(self) -> dict[str, int]:
        """As the route stands."""
        refs = self.route()["spec"]["rules"][0]["backendRefs"]
        return {ref["name"].rpartition("-")[2]: ref["weight"] for ref in refs}

    def meddle(self, weights: list[int]) -> None:
        """Somebody else writes weights into the route."""
        route = copy.deepcopy(self.route())
        for ref, weight in zip(route["spec"]["rules"][0]["backendRefs"], weights, strict=True):
            ref["weight"] = weight
        route["metadata"]["generation"] += 1
        self.children[ROUTE, KEY.name] = route

    def crash(self, pod: SimPod) -> None:
        """Its server dies under a request, and starts again: what it had counted is lost."""
        self.restarts[pod.name] = self.restarts.get(pod.name, 0) + 1
        pod.splits, pod.service, pod.born = {}, {}, self.time

    async def read(self, namespace: str, pods: Iterable[Pod]) -> Mapping[str, PodMetrics]:
        return await super().read(namespace, [pod for pod in pods if pod.name not in self.silent])

    async def apply(self, body: Object) -> Object:
        if body["kind"] != ROUTE.kind:
            return await super().apply(body)
        assert ROUTE.kind not in self.unusable, "the API server does not know HTTPRoute"
        before = self.children.get((ROUTE, KEY.name))
        try:
            return await super().apply(body)
        finally:
            self._complete(before)

    def _complete(self, before: Object | None) -> None:
        """What the API server adds to a route that was written."""
        route = self.children.get((ROUTE, KEY.name))
        if route is None or route is before:
            return
        parents = route["spec"]["parentRefs"]
        route["spec"]["parentRefs"] = [
            {"group": ROUTE.api_version.split("/")[0], "kind": "Gateway"} | p for p in parents
        ]
        same = before is not None and before["spec"] == route["spec"]
        route["metadata"]["generation"] = before["metadata"]["generation"] + (not same) if before else 1
        route["status"] = before["status"] if before else {"parents": []}

    def tick(self, seconds: float) -> None:
        route = self.children.get((ROUTE, KEY.name))
        if route is None:
            self.acted_on = {}
        elif self.accepts:
            conditions = agreed(route["metadata"]["generation"], **self.refusal)
            entries = [{"parentRef": ref, "conditions": conditions} for ref in route["spec"]["parentRefs"]]
            self.children[ROUTE, KEY.name] = {**route, "status": {"parents": entries}}
            if self.time - self._accepted.setdefault(route["metadata"]["generation"], self.time) >= self.acts_late:
                self.acted_on = self.shares()
        super().tick(seconds)

    def _serve(self, seconds: float) -> None:
        """By the Gateway alone: each pod counts what it answers itself."""
        for revision, weight in self.acted_on.items():
            requests = round(self.rps * seconds * weight / 100)
            serving = [p for p in self.pods.values() if p.revision == revision and self._has_endpoint(p)]
            if not serving:
                self.failed += requests
            for pod in serving:
                self._answer(pod, requests // len(serving))

    def _answer(self, pod: SimPod, requests: int) -> None:
        behaviour = self.behaviours.get(pod.version)
        pod.owed += requests * (behaviour.bad_rate if behaviour else 0.0)
        bad = int(pod.owed)
        pod.owed -= bad
        counts = pod.splits.setdefault("", dict.fromkeys(COUNTED, 0))
        refused = round(requests * behaviour.refused_rate) if behaviour else 0
        counts["refused"] += refused
        counts["bad"] += bad
        counts["ok"] += requests - bad - refused
        pod.serve("stable", behaviour.service if behaviour else 0.02, requests - bad - refused)
        if behaviour:
            pod.predict("stable", behaviour.classes, requests - bad - refused)
        self.served[pod.revision] = self.served.get(pod.revision, 0) + requests

    def _has_endpoint(self, pod: SimPod) -> bool:
        return self.ready(pod) and self.time - pod.born >= self.endpoints_late

    def _world(self) -> World:
        world = super()._world()
        route = self.children.get((ROUTE, KEY.name))
        endpoints: dict[str, int] = {}
        for pod in self.pods.values():
            endpoints[pod.revision] = endpoints.get(pod.revision, 0) + self._has_endpoint(pod)
        return replace(
            world,
            pods=tuple(replace(pod, restarts=self.restarts.get(pod.name, 0)) for pod in world.pods),
            routes=() if route is None or self.unusable else (route,),
            unusable=self.unusable,
            endpoints=endpoints,
        )
