"""The split: which share of requests goes to which revision, and for how long (docs/contract.md, "The split").

Pure: the text and the time come from outside. A split is aged on this pod's own monotonic clock from the moment it
is first read, so that neither a wrong clock elsewhere nor a dead operator keeps traffic on a candidate.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

VERSION = 1  # the newest format that this server reads


class UnreadableSplit(ValueError):
    """The annotation says nothing that this server understands; the message says what is wrong."""


class Shadow(BaseModel):
    """Copies: `share` percent of the requests answered here. Answers agree if numbers are within `tolerance` (relative)
    and masks overlap by `iou` at least."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    share: Annotated[int, Field(ge=1, le=100)]
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    iou: Annotated[float, Field(gt=0, le=1)]


class Split(BaseModel):
    """Percent of inference requests (0 to 100) for a revision; `ttl` seconds, or None for hand-over.

    Requests with the same value of `header` (lower case) go to the same side.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    v: Annotated[int, Field(ge=1, le=VERSION)]
    generation: Annotated[int, Field(ge=1)]
    revision: Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
    weight: Annotated[int, Field(ge=0, le=100)]
    salt: str
    ttl: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    header: Annotated[str, Field(pattern="^[a-z0-9-]{1,63}$")] | None = None
    shadow: Shadow | None = None

    @property
    def hand_over(self) -> bool:
        """Everything goes to the other side, without expiry, and clients are sent away."""
        return self.ttl is None

    @model_validator(mode="after")
    def _only_hand_over_never_expires(self) -> Self:
        if self.ttl is None and self.weight != 100:
            raise ValueError(f"ttl is null (hand-over) with weight {self.weight}, not 100")
        return self


def parse(text: str) -> Split:
    """Read the annotation's JSON; fields it does not know are ignored.

    Raises:
        UnreadableSplit: naming the field.
    """
    try:
        return Split.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in wrong["loc"][:1]) or "the split"
        raise UnreadableSplit(f"{field}: {wrong['msg']}") from None


class SplitState:
    """Which split is in force. Fed with what the file says, asked with the time (monotonic seconds)."""

    def __init__(self) -> None:
        self._split: Split | None = None
        self._until: float | None = None
        self._readable = False
        self._found_at_start = True

    def observe(self, split: Split | None, now: float) -> None:
        """Take what the file says now; None where it says nothing readable.

        The first observation is what the container found when it started: expired, except hand-over. A generation
        not above the newest seen changes nothing: none is ever young again.
        """
        first = self._split is None and self._found_at_start
        self._readable = split is not None
        if split is None:
            self._found_at_start = self._split is not None and self._found_at_start
        elif self._split is None or split.generation > self._split.generation:
            self._split = split
            self._found_at_start = first
            age_from = now - (split.ttl or 0.0) if first else now
            self._until = None if split.ttl is None else age_from + split.ttl

    def in_force(self, now: float) -> Split | None:
        """The split to act on, or None: everything is served here."""
        if self._split is None or not self._readable:
            return None
        return self._split if self._until is None or now < self._until else None

    @property
    def generation(self) -> int:
        """The generation acted on. 0: none, or one found at start that is not obeyed (it hands over or copies)."""
        if self._split is None or not self._readable:
            return 0
        asks = self._split.weight > 0 or self._split.shadow is not None
        disobeyed = self._found_at_start and not self._split.hand_over and asks
        return 0 if disobeyed else self._split.generation
