"""``objectives.drift``: how far a candidate's predictions may be from stable's."""

from pydantic import ConfigDict, Field

from modelramp.api.base import ApiModel, cel


class Drift(ApiModel):
    """How far what the candidate predicts may be from what stable predicts: the total variation distance between the
    shares of their classes, from 0 (the same) to 1 (nothing in common)."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            ("self.enabled || !has(self.max)", "drift.max is set and drift.enabled is false: take one of the two away")
        )
    )

    enabled: bool = Field(True, description="Whether the predictions of both sides are compared.")
    pause_above: float = Field(
        0.1, gt=0, le=1, description="Without max: a distance certified above it pauses the rollout for a person."
    )
    max: float | None = Field(
        None,
        gt=0,
        le=1,
        description="A distance certified above it fails the candidate, and a promotion takes one certified below it.",
    )
