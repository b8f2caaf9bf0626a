"""``spec.rollout.shadow``: what is asked of the answers to copied requests, which no user gets."""

from pydantic import Field

from modelramp.api.base import ApiModel


class Shadow(ApiModel):
    """How the candidate's answers to copied requests are compared with stable's, and how often they may differ."""

    tolerance: float = Field(0.01, ge=0, le=1, description="Relative error up to which two numbers agree.")
    mask_overlap: float = Field(
        0.9, gt=0, le=1, description="Intersection over union from which two masks (integers, 3 axes or more) agree."
    )
    max_disagreement: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Rate of requests that a candidate must be certified below before it answers any. Absent: shown "
        "only; a better model disagrees too.",
    )
