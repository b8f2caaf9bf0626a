"""The routers' own objects: of kinds that the cluster may lack, and that the operator may not be allowed to read.

Whoever asks for a router is told why it can't be used; everybody else goes on without.
"""

import asyncio
from collections.abc import Sequence

from pydantic import ValidationError

from modelramp.adapters.cache import Cache
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.reflector import MISSING
from modelramp.api.routing import Routed, RouterKind
from modelramp.desired.meta import NAME_LABEL
from modelramp.ports import ROUTE_KINDS, ClusterError, Key, Kind, Object
from modelramp.routers import router_of

ENDPOINT_SLICE = Kind("discovery.k8s.io/v1", "EndpointSlice")


def routes(cache: Cache, key: Key) -> tuple[dict[Kind, list[Object]], dict[str, str]]:
    """What there is of every router's kinds, and by kind why it can't be used."""
    found = {kind: cache.objects(kind, key) for kind in ROUTE_KINDS}
    absent = {kind: error for kind in ROUTE_KINDS if (error := cache.absent(kind, key))}
    return found, {kind.kind: why(kind, error) for kind, error in absent.items()}


def why(kind: Kind, error: ClusterError) -> str:
    if error.status == MISSING:
        what = f"the API server does not know {kind.kind} ({kind.api_version})"
        return f"{what}: install what defines it, or choose another spec.traffic.router"
    return f"the operator may not use {kind.kind} ({kind.api_version}): bring its Role up to date ({error})"


async def labelled(api: KubeApi, kind: Kind, key: Key) -> list[Object]:
    """Objects of a kind that carry the ModelDeployment's label. Raises ClusterError."""
    answer = await api.read(path_of(kind, key.namespace), {"labelSelector": f"{NAME_LABEL}={key.name}"})
    # Items of a list do not say what they are.
    return [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in answer["items"] or ()]


async def about(api: KubeApi, owner: Object, key: Key, ours: Sequence[Object]) -> tuple[dict[str, str], list[Object]]:
    """For an object whose router makes routes: kinds whose name is taken by somebody else, and the EndpointSlices of
    its Services. Raises ClusterError."""
    kinds = [Kind(kind.api_version, kind.kind) for kind in router_of(_asked(owner)).kinds]
    if not kinds:
        return {}, []
    *namesakes, slices = await asyncio.gather(
        *(api.find(path_of(kind, *key)) for kind in kinds), labelled(api, ENDPOINT_SLICE, key)
    )
    uids = {route["metadata"]["uid"] for route in ours}
    taken = {
        kind.kind: f"{kind.kind} {key.name} exists and is not ours: rename one of the two"
        for kind, namesake in zip(kinds, namesakes, strict=True)
        if isinstance(namesake, dict) and namesake["metadata"]["uid"] not in uids
    }
    return taken, slices if isinstance(slices, list) else []


def _asked(owner: Object) -> RouterKind:
    """A spec that makes no sense gets no further anyway."""
    try:
        return Routed.model_validate(owner["spec"].get("traffic", {})).chosen
    except ValidationError:
        return RouterKind.RELAY
