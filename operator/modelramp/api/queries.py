"""``analysis.queries``: values that a Prometheus server has of a rollout, and the bounds that they must keep."""

from datetime import timedelta
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from modelramp.api.base import ApiModel, Duration, cel

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LONGEST_NAME = 63
MOST_QUERIES = 10
UNBOUNDED = "a query needs max, min, or both: the bounds that its value must keep"
ASKED_ONCE = "each query may stand in the list once"


class Query(ApiModel):
    """A query of the operator's configuration, by its name, with the bounds of its value."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            ("has(self.max) || has(self.min)", UNBOUNDED),
            ("!has(self.max) || !has(self.min) || self.min <= self.max", "a query's min must not be above its max"),
        )
    )

    source: str = Field(
        "default",
        pattern=NAME,
        max_length=LONGEST_NAME,
        description="Name of a Prometheus server configured in the operator.",
    )
    query: str = Field(pattern=NAME, max_length=LONGEST_NAME, description="Name of one of its configured queries.")
    max: float | None = Field(None, description="The value must not be above it.")
    min: float | None = Field(None, description="The value must not be below it.")
    failures: int = Field(
        3, ge=1, le=20, description="So many values in a row outside fail the candidate; as many inside pass it."
    )
    interval: Duration = Field(
        timedelta(seconds=30), description="How often it is asked; no more often than the operator looks at a rollout."
    )

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.max is None and self.min is None:
            raise ValueError(UNBOUNDED)
        return self

    @property
    def metric(self) -> str:
        """Its name in status.evidence."""
        return f"query/{self.query}"
