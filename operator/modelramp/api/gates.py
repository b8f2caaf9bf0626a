"""``spec.rollout.gates``: what a candidate must show before it gets any request."""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from modelramp.api.base import OPEN_OBJECT, ApiModel, cel

MAX_GATES = 20
MAX_EXAMPLES = 10
LATENCY_PATTERN = r"^[0-9]{1,6}(ms|s)$"

JsonObject = Annotated[dict[str, Any], WithJsonSchema(OPEN_OBJECT)]


def parse_latency(value: Any) -> Any:
    """``500ms`` or ``2s`` as a timedelta. Raises ValueError for anything else that is a string."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(LATENCY_PATTERN, value) is None:
        raise ValueError(f"{value!r} is not a latency; write it like 500ms or 2s")
    if value.endswith("ms"):
        return timedelta(milliseconds=int(value[:-2]))
    return timedelta(seconds=int(value[:-1]))


Latency = Annotated[
    timedelta,
    BeforeValidator(parse_latency),
    PlainSerializer(lambda value: f"{round(value.total_seconds() * 1000)}ms", return_type=str),
    WithJsonSchema({"type": "string", "pattern": LATENCY_PATTERN, "maxLength": 8}),
]


class Inputs(StrEnum):
    COMPATIBLE = "Compatible"
    ANY = "Any"


class MetricGate(ApiModel):
    """A metric of the run that made the version, against bounds or against stable's."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "has(self.min) || has(self.max) || has(self.notWorseThanStableBy)",
                "a metric gate needs min, max, or notWorseThanStableBy with higherIsBetter",
            ),
            (
                "has(self.notWorseThanStableBy) == has(self.higherIsBetter)",
                "notWorseThanStableBy and higherIsBetter belong together: set both or neither",
            ),
            ("!has(self.min) || !has(self.max) || self.min <= self.max", "min must not be above max"),
        )
    )

    name: str = Field(min_length=1, max_length=250, description="Name of the metric in the registry.")
    min: float | None = Field(None, description="Its value at least.")
    max: float | None = Field(None, description="Its value at most.")
    not_worse_than_stable_by: float | None = Field(None, ge=0, description="How much worse than stable's it may be.")
    higher_is_better: bool | None = Field(None, description="Which way is worse: true for a score, false for a loss.")


class TagGate(ApiModel):
    """A tag of the model version. While it is missing or other, the candidate waits."""

    name: str = Field(min_length=1, max_length=250, description="Name of the tag.")
    value: str = Field(max_length=5000, description="Value that it must have.")


class SmokeExample(ApiModel):
    input: JsonObject = Field(description="Body of the request to /invocations.")
    expect: JsonObject | None = Field(None, description="What the answer must have; fields not named here are free.")
    tolerance: float = Field(1e-6, ge=0, description="How far numbers may be off, absolute or relative.")


class Smoke(ApiModel):
    """Requests to the candidate's own pod."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.latency) || (duration(self.latency) > duration('0s')"
                " && duration(self.latency) <= duration('10s'))",
                "spec.rollout.gates.smoke.latency must be above 0ms and not above 10s",
            )
        )
    )

    example: bool = Field(True, description="Whether to send the model's own logged input example, if it has one.")
    latency: Latency | None = Field(None, description="Service time at most: the median of three requests.")
    examples: list[SmokeExample] = Field(default_factory=list, max_length=MAX_EXAMPLES)


class Gates(ApiModel):
    metrics: list[MetricGate] = Field(default_factory=list, max_length=MAX_GATES)
    tags: list[TagGate] = Field(default_factory=list, max_length=MAX_GATES)
    inputs: Inputs = Field(
        Inputs.COMPATIBLE, description="Compatible: the candidate must accept every input that stable accepts."
    )
    smoke: Smoke = Smoke()
