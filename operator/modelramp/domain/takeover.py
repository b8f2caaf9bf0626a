"""Taking over a Service that exists already (annotation ``modelramp.dev/adopt-service``): its name and clients stay.

It is taken once stable can answer everybody, selects stable's pods from then on, as the main Service does, and is given
back as it was. One whose clients our pods could not answer is refused.
"""

from datetime import timedelta

from modelramp.api.status import AdoptedService
from modelramp.domain.turn import Turn
from modelramp.domain.world import OtherService

ADOPTED, RETURNED, CONTESTED = "ServiceAdopted", "ServiceReturned", "ServiceContested"
NOT_FOUND, OWNED, UNFIT, NOT_READY = "ServiceNotFound", "ServiceOwned", "ServiceUnfit", "StableNotReady"
REMEMBERED = timedelta(minutes=15)  # how long the condition tells that somebody put the selector back
LOOK = timedelta(seconds=30)  # nothing tells of changes of a Service that is not labelled yet
HTTP = ("", "http")


def take_over(turn: Turn) -> None:
    """What is to be with the Service that the annotation names, and with one that it names no longer."""
    name, held = turn.snap.adopts, turn.status.service
    if held is not None and held.name != name:
        if held.since is not None:
            turn.tell(RETURNED, f"Service {held.name} is given back as it was")
        turn.set(service=None)
    if name:
        held = turn.status.service or AdoptedService(name=name)
        found = next((s for s in turn.world.services if s.name == name), None)
        turn.set(service=_wanted(turn, held, found) if held.since is None else _held(turn, held, found))


def _wanted(turn: Turn, held: AdoptedService, found: OtherService | None) -> AdoptedService:
    reason, message = _missing(held.name) if found is None else refusal(found) or _not_ready(turn)
    if reason:
        if (reason, message) != (held.reason, held.message):
            turn.tell(reason, message, warning=reason != NOT_READY)
        turn.wake_in(LOOK)
        return held.model_copy(update={"reason": reason, "message": message})
    turn.tell(ADOPTED, f"Service {held.name} selects the pods of what is stable from now on")
    return held.model_copy(update={"since": turn.now, "reason": "", "message": ""})


def _held(turn: Turn, held: AdoptedService, found: OtherService | None) -> AdoptedService:
    if found is None or (found.holder and not found.taken):  # gone, or another ModelDeployment's by now
        return _wanted(turn, AdoptedService(name=held.name), found)
    if found.taken and not found.selected:
        message = (
            f"{found.manager or 'somebody'} changed spec.selector of Service {found.name}, and it was set again: take "
            "the selector out of what that applies, or the annotation modelramp.dev/adopt-service off"
        )
        turn.tell(CONTESTED, message, warning=True)
        return held.model_copy(update={"message": message, "contested_at": turn.now})
    if held.contested_at is not None and turn.over(held.contested_at, REMEMBERED):
        return held.model_copy(update={"message": "", "contested_at": None})
    return held


def refusal(service: OtherService) -> tuple[str, str] | None:
    """Reason and message, if it can't be taken over."""
    name = f"Service {service.name}"
    if service.controller:
        return OWNED, f"{name} belongs to {service.controller}, which would set it back: take one that nobody controls"
    if service.holder and not service.taken:
        return OWNED, f"{name} has been taken over by ModelDeployment {service.holder}"
    if service.type == "ExternalName" or service.headless or not (service.selector or service.taken):
        kind = "is an ExternalName" if service.type == "ExternalName" else "is headless" if service.headless else ""
        return UNFIT, f"{name} {kind or 'has no selector'}: only one that balances over selected pods can be taken over"
    if len(service.ports) != 1:
        return UNFIT, f"{name} has {len(service.ports)} ports, and the pods serve one: leave one, for HTTP"
    port = service.ports[0]
    if port.protocol != "TCP" or port.application not in HTTP:
        what = f"{port.protocol} {port.application}".strip()
        return UNFIT, f"port {port.port} of {name} is for {what}, and the pods serve plain HTTP over TCP"
    return None


def _missing(name: str) -> tuple[str, str]:
    return NOT_FOUND, f"there is no Service {name} in this namespace: mend the annotation modelramp.dev/adopt-service"


def _not_ready(turn: Turn) -> tuple[str, str]:
    """Nothing, once stable can answer everybody."""
    ready, size = turn.world.ready(turn.stable_revision), turn.snap.spec.scaling.base_size
    if turn.status.stable is None or ready < size:
        return NOT_READY, f"{ready} of {size} pods of the stable revision are ready to take the Service over"
    return "", ""
