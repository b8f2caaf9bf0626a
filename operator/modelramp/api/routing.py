"""The part of ``spec.traffic`` that says by which way a candidate gets its share of the requests (docs/routers.md)."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from modelramp.api.base import ApiModel, cel

HOSTNAME = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
Hostname = Annotated[str, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 253, "pattern": HOSTNAME})]

GATEWAY_MISSING = "spec.traffic.router: Gateway needs spec.traffic.gateway.parentRefs, which name the Gateways to use"
GATEWAY_UNUSED = "spec.traffic.gateway is for router: Gateway; leave spec.traffic.router out, or remove gateway"
STICKY_BY_RELAY = "spec.traffic.stickiness is the router Relay's: with a Gateway, set its own session persistence"


class RouterKind(StrEnum):
    """Each is a module of ``modelramp.routers``, by its name in lower case."""

    RELAY = "Relay"
    GATEWAY = "Gateway"


class ParentRef(ApiModel):
    """A Gateway that takes requests in. Its listeners must admit HTTPRoutes of this namespace."""

    name: str = Field(min_length=1, max_length=253)
    namespace: str | None = Field(None, min_length=1, max_length=63, description="This object's, if absent.")
    section_name: str | None = Field(None, min_length=1, max_length=253, description="One listener; all, if absent.")
    port: int | None = Field(None, ge=1, le=65535)


class Gateway(ApiModel):
    parent_refs: list[ParentRef] = Field(
        min_length=1,
        max_length=8,
        json_schema_extra=cel(("self.all(a, self.exists_one(b, a == b))", "parentRefs must differ from each other")),
    )
    hostnames: list[Hostname] | None = Field(None, max_length=16, description="Hosts to take; all, if absent.")


class Stickiness(ApiModel):
    """Requests that belong together go to the same side for a whole attempt."""

    header: str = Field(
        pattern="^[A-Za-z0-9-]+$",
        max_length=63,
        description="Request header whose value keeps requests together; those without it are dealt one by one.",
    )


class Routed(ApiModel):
    model_config = ConfigDict(
        json_schema_extra=cel(
            ("!has(self.router) || self.router != 'Gateway' || has(self.gateway)", GATEWAY_MISSING),
            ("!has(self.router) || self.router == 'Gateway' || !has(self.gateway)", GATEWAY_UNUSED),
            ("!has(self.stickiness) || !has(self.gateway)", STICKY_BY_RELAY),
        )
    )

    router: RouterKind | None = Field(
        None, description="By which way a candidate gets its share: Gateway where gateway is set, else Relay."
    )
    gateway: Gateway | None = None
    stickiness: Stickiness | None = None

    @model_validator(mode="after")
    def _router_and_gateway_agree(self) -> Self:
        if self.chosen is RouterKind.GATEWAY and self.gateway is None:
            raise ValueError(GATEWAY_MISSING)
        if self.chosen is not RouterKind.GATEWAY and self.gateway is not None:
            raise ValueError(GATEWAY_UNUSED)
        if self.stickiness is not None and self.gateway is not None:
            raise ValueError(STICKY_BY_RELAY)
        return self

    @property
    def chosen(self) -> RouterKind:
        """The router that is asked for, named or not."""
        return self.router or (RouterKind.GATEWAY if self.gateway else RouterKind.RELAY)
