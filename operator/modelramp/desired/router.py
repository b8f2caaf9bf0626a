"""What project() asks of a router: the objects and pod annotations by which the world comes to hold the weight."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from modelramp.api.spec import Spec
from modelramp.api.status import Status
from modelramp.desired.meta import Body, Owner
from modelramp.domain.router import Steering
from modelramp.domain.world import World


class Router(Steering, Protocol):
    def objects(self, owner: Owner, spec: Spec, status: Status, world: World) -> tuple[Body, ...]:
        """Of the router's own kinds, whole. What is not in it any more is deleted."""
        ...

    def splits(self, owner: Owner, spec: Spec, status: Status, world: World, ttl: timedelta) -> Mapping[str, str]:
        """The split annotation that carries the weight, by name of the stable pod."""
        ...
