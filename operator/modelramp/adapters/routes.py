"""The routers' own objects: of kinds that the cluster may lack, and that the operator may not be allowed to read.

Whoever asks for a router is told why it can't be used; everybody else goes on without.
"""

import asyncio
from collections.abc import Sequence

from pydantic import ValidationError

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.api.routing import Routed, RouterKind
from modelramp.desired.meta import NAME_LABEL
from modelramp.ports import ClusterError, Key, Kind, Object
from modelramp.routers import router_of

ENDPOINT_SLICE = Kind("discovery.k8s.io/v1", "EndpointSlice")
MISSING, FORBIDDEN = 404, 403


async def labelled(api: KubeApi, kind: Kind, key: Key) -> list[Object]:
    """Objects of a kind that carry the ModelDeployment's label. Raises ClusterError."""
    answer = await api.read(path_of(kind, key.namespace), {"labelSelector": f"{NAME_LABEL}={key.name}"})
    # Items of a list do not say what they are.
    return [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in answer["items"] or ()]


async def routes(api: KubeApi, owner: Object, key: Key) -> tuple[dict[Kind, list[Object]], dict[str, str]]:
    """What there is of the kinds of the router that is asked for, and of the one that carried the weight so far; and by
    kind why it can't be used. Raises ClusterError."""
    kinds = list(dict.fromkeys((*_kinds(_asked(owner)), *_kinds(_present(owner)))))
    found = await asyncio.gather(*(_usable(api, kind, key) for kind in kinds))
    answers = dict(zip(kinds, found, strict=True))
    lists = {kind: answer for kind, answer in answers.items() if isinstance(answer, list)}
    return lists, {kind.kind: answer for kind, answer in answers.items() if isinstance(answer, str)}


async def _usable(api: KubeApi, kind: Kind, key: Key) -> list[Object] | str:
    try:
        return await labelled(api, kind, key)
    except ClusterError as error:
        if error.status == MISSING:
            what = f"the API server does not know {kind.kind} ({kind.api_version})"
            return f"{what}: install what defines it, or choose another spec.traffic.router"
        if error.status == FORBIDDEN:
            return f"the operator may not use {kind.kind} ({kind.api_version}): bring its Role up to date ({error})"
        raise


async def about(api: KubeApi, owner: Object, key: Key, ours: Sequence[Object]) -> tuple[dict[str, str], list[Object]]:
    """For an object whose router makes routes: kinds whose name is taken by somebody else, and the EndpointSlices of
    its Services. Raises ClusterError."""
    kinds = _kinds(_asked(owner))
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


def _kinds(router: RouterKind) -> list[Kind]:
    return [Kind(kind.api_version, kind.kind) for kind in router_of(router).kinds]


def _present(owner: Object) -> RouterKind:
    """The router of the status. One that this release does not know has made nothing that it could remove."""
    try:
        return RouterKind(owner.get("status", {}).get("traffic", {}).get("router", RouterKind.RELAY))
    except ValueError:
        return RouterKind.RELAY


def _asked(owner: Object) -> RouterKind:
    """A spec that makes no sense gets no further anyway."""
    try:
        return Routed.model_validate(owner["spec"].get("traffic", {})).chosen
    except ValidationError:
        return RouterKind.RELAY
