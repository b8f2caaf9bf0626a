"""project(): the complete set of children that a status means. What is owned and not in it is to be deleted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from modelramp.api.spec import Spec
from modelramp.api.status import StableStatus, Status
from modelramp.desired import children, takeover
from modelramp.desired.meta import Body, Owner
from modelramp.desired.router import Router
from modelramp.desired.split import split
from modelramp.desired.template import speaks_grpc
from modelramp.domain.traffic import candidate_size, full_size, salt
from modelramp.domain.world import Pod, Revision, World


@dataclass(frozen=True)
class Desired:
    """`objects`: bodies for server-side apply, in the order to apply them. `sizes`: replicas by revision, where the
    operator (not an autoscaler) decides. `splits`: the annotation wanted, by pod name. `returned`: bodies of what is
    given back, applied as they are."""

    objects: tuple[Body, ...]
    sizes: Mapping[str, int]
    splits: Mapping[str, str]
    returned: tuple[Body, ...] = ()


def project(
    owner: Owner,
    spec: Spec,
    status: Status,
    revisions: Mapping[str, Revision],
    world: World,
    ttl: timedelta,
    router: Router,
) -> Desired:
    """What should exist now. `revisions` holds every revision that status names: frozen ones, and a new target."""
    running = [r for r in running_revisions(status) if r in revisions]
    objects = [children.controller_revision(owner, marked(revisions[r], status)) for r in remembered(status, revisions)]
    for revision in running:
        objects += [children.deployment(owner, revisions[revision]), children.revision_service(owner, revision)]
    stable = status.stable.revision if status.stable else None
    if stable:
        grpc = stable in revisions and speaks_grpc(revisions[stable].template)
        objects.append(children.main_service(owner, stable, spec.traffic.service, grpc))
        objects += takeover.taken(owner, status, world.services)
        if spec.scaling.autoscaled:
            objects.append(children.autoscaler(owner, stable, spec.scaling, full_size(spec, status)))
        if spec.scaling.base_size > 1:
            objects.append(children.disruption_budget(owner, stable))
        objects += router.objects(owner, spec, status, world)
    kept = status.service.name if status.service else None
    returned = takeover.returned(owner.namespace, world.services, kept)
    annotations = splits(owner, spec, status, world, ttl, router)
    return Desired(tuple(objects), sizes(spec, status, world), annotations, tuple(returned))


def running_revisions(status: Status) -> list[str]:
    """Those with pods: stable first, then the candidate, then former ones that still drain."""
    named = [
        status.stable.revision if status.stable else None,
        status.candidate.revision if status.candidate else None,
        *(d.revision for d in status.draining),
    ]
    return list(dict.fromkeys(r for r in named if r))


def remembered(status: Status, revisions: Mapping[str, Revision]) -> list[str]:
    """Those that serve or may again as they were, and those that must not."""
    kept = [*running_revisions(status), *(r.revision for r in status.rejected), *(f.revision for f in status.former)]
    return [r for r in dict.fromkeys(kept) if r in revisions]


def marked(revision: Revision, status: Status) -> Revision:
    """The revision with its state as status tells it."""
    rejected = next((r for r in status.rejected if r.revision == revision.hash), None)
    return Revision(
        revision.hash,
        revision.model,
        revision.template,
        revision.ordinal,
        rejected.reason if rejected else "",
        rejected.message if rejected else "",
    )


def sizes(spec: Spec, status: Status, world: World) -> dict[str, int]:
    """Stable's size is the autoscaler's where there is one, but for the moment in which it is made, or is below the
    floor that it has just been given."""
    wanted: dict[str, int] = {}
    if status.stable and not spec.scaling.autoscaled:
        wanted[status.stable.revision] = spec.scaling.base_size
    elif status.stable and _below_floor(status.stable, world):
        wanted[status.stable.revision] = status.stable.floor
    if status.candidate:
        wanted[status.candidate.revision] = candidate_size(spec, status)
    return wanted


def splits(owner: Owner, spec: Spec, status: Status, world: World, ttl: timedelta, router: Router) -> dict[str, str]:
    """What the router wants of stable's pods. Whichever it is, demoted pods hand over, for the main Service's clients
    stay with them for a while; and a former stable that comes back stops handing over."""
    traffic, candidate, stable = status.traffic, status.candidate, status.stable
    wanted = dict(router.splits(owner, spec, status, world, ttl))
    if stable:
        for drain in status.draining:
            value = split(drain.generation, stable.revision, 100, salt(owner.uid, stable.revision, 0), None)
            wanted |= {pod.name: value for pod in world.pods_of(drain.revision)}
    if stable:
        back = split(traffic.generation, stable.revision, 0, "", ttl)
        serving = [*world.pods_of(stable.revision), *(world.pods_of(candidate.revision) if candidate else ())]
        wanted |= {pod.name: back for pod in serving if hands_over(pod) and pod.name not in wanted}
    return {name: value for name, value in wanted.items() if _differs(world, name, value)}


def hands_over(pod: Pod) -> bool:
    return '"ttl":null' in pod.split


def taken_back(status: Status, world: World, ttl: timedelta) -> dict[str, str]:
    """By name of those of stable's pods that relay, though nobody is to get anything from them: a split of nothing."""
    if status.stable is None:
        return {}
    nothing = split(status.traffic.generation, status.stable.revision, 0, "", ttl)
    return {pod.name: nothing for pod in world.pods_of(status.stable.revision) if _relays(pod)}


def _relays(pod: Pod) -> bool:
    """Requests, or copies of them."""
    idle = '"weight":0' in pod.split and '"shadow":' not in pod.split
    return bool(pod.split) and not idle and not hands_over(pod)


def _below_floor(stable: StableStatus, world: World) -> bool:
    workload = world.workloads.get(stable.revision)
    return workload is not None and workload.replicas < stable.floor


def _differs(world: World, name: str, value: str) -> bool:
    return any(pod.name == name and pod.split != value for pod in world.pods)
