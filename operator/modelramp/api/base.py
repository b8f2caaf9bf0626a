"""What all models of the resource share: camelCase on the wire, frozen in memory, Kubernetes' durations and times."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

DURATION_PATTERN = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"


class ApiModel(BaseModel):
    """A part of the resource. Unknown fields are ignored here: the API server has already refused or pruned them."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


def parse_duration(value: Any) -> Any:
    """A duration such as ``1h30m`` as a timedelta. Raises ValueError for anything else that is a string."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(DURATION_PATTERN, value)
    if not value or match is None:
        raise ValueError(f"{value!r} is not a duration; write it like 30s, 10m or 1h30m")
    hours, minutes, seconds = (int(part[:-1]) if part else 0 for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest way to write a duration: 90 s is ``1m30s``, nothing is ``0s``."""
    minutes, seconds = divmod(round(value.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n]
    return "".join(parts) or "0s"


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with microseconds, so that intervals survive being written down."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "minLength": 2, "maxLength": 20}),
]
Time = Annotated[
    datetime,
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def cel(*rules: tuple[str, str]) -> dict[str, Any]:
    """Schema extras that carry CEL rules, each a pair of rule and the message a person sees when it does not hold."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


OPEN_OBJECT: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def open_list(most: int, **named: dict[str, Any]) -> dict[str, Any]:
    """Schema of a list of objects of which only the named fields, all required, are known here."""
    items = {**OPEN_OBJECT, "properties": named, "required": list(named)} if named else OPEN_OBJECT
    return {"type": "array", "maxItems": most, "items": items}


OpenObject = Annotated[dict[str, Any], WithJsonSchema(OPEN_OBJECT)]
OpenList = Annotated[list[dict[str, Any]], WithJsonSchema(open_list(100))]
