"""The routers: one module each, named as in ``spec.traffic.router``. How to write one: docs/routers.md."""

from importlib import import_module

from modelramp.api.routing import RouterKind
from modelramp.desired.router import Router


def router_of(kind: RouterKind) -> Router:
    """The module's ROUTER."""
    router: Router = import_module(f"{__name__}.{kind.lower()}").ROUTER
    return router


KINDS = tuple(kind for name in RouterKind for kind in router_of(name).kinds)
"""Of objects that any of the routers makes: watched, read, and removed where nobody wants them any more."""
