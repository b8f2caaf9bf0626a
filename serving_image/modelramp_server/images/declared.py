"""What a model says about its images: `metadata.modelramp.image` of the MLmodel file, read once, when it is loaded.

Imported only for models that say something: making these classes takes as long as importing a library.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelramp_server.images import KEY
from modelramp_server.runtime.base import LoadFailed

Layout = Literal["NCHW", "NHWC", "NHW"]
Size = Annotated[int, Field(ge=1, le=16384)]
PerChannel = float | Annotated[list[float], Field(min_length=1, max_length=3)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Preprocess(_Declared):
    """From pixels of 0 to 255 to the model's input: colour, size, then `(pixel * scale - mean) / std`, then layout."""

    input: str | None = Field(default=None, description="the input that takes the image (default: the only one)")
    color: Literal["rgb", "bgr", "gray"] = Field(default="rgb", description="channels and their order")
    size: tuple[Size, Size] | None = Field(
        default=None, description="[height, width] (default: the input's own; if that is free, the image's)"
    )
    resize: Literal["stretch", "crop", "pad"] = Field(
        default="stretch", description="how another aspect is met: stretch, cut off at the sides, or add borders"
    )
    crop_pct: float = Field(default=1.0, gt=0, le=1, description="share of that crop's sides that is kept, as in timm")
    pad_value: int = Field(default=0, ge=0, le=255, description="pixels of the borders")
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(default="bilinear", description="resampling")
    scale: float = Field(default=1.0, description="factor of pixels; 1/255 makes them 0 to 1")
    mean: PerChannel = Field(default=0.0, description="subtracted after that, one for all channels or for each")
    std: PerChannel = Field(default=1.0, description="divides what is left, one for all channels or for each")
    layout: Layout | None = Field(default=None, description="order of axes (default: as the input's shape says)")
    exif_rotation: bool = Field(default=True, description="turn photos upright, as their EXIF says")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        channels = 1 if self.color == "gray" else 3
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, list) and len(value) not in (1, channels):
                raise ValueError(f"{name} has {len(value)} values, {self.color} has {channels} channels")
        if 0 in (self.std if isinstance(self.std, list) else [self.std]):
            raise ValueError("std is 0; pixels are divided by it")
        if self.layout == "NHW" and self.color != "gray":
            raise ValueError("layout NHW has no axis for channels: set color to gray")
        if self.crop_pct != 1 and self.resize != "crop":
            raise ValueError("crop_pct means something with resize: crop only")
        if self.pad_value and self.resize != "pad":
            raise ValueError("pad_value means something with resize: pad only")
        return self


class Postprocess(_Declared):
    """From the model's output to classes: an output of integers holds them already; of floats, the largest wins
    (argmax), or all that reach the threshold."""

    output: str | None = Field(default=None, description="the output that tells (default: the first)")
    activation: Literal["none", "softmax", "sigmoid"] = Field(
        default="none", description="what turns the output into probabilities; none: it holds them already"
    )
    threshold: float | None = Field(
        default=None, gt=0, lt=1, description="probability from which a class is seen (sigmoid: 0.5); not set: argmax"
    )
    classes: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="names of the classes; with a threshold, the first is what there is none of them"
    )
    colors: Annotated[list[Color], Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="colours of masks, '#rrggbb' for each class; the first is the background's"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.activation == "softmax" and self.threshold is not None:
            raise ValueError("threshold is for sigmoid or none; after softmax the largest wins")
        return self

    @property
    def cut(self) -> float | None:
        """The threshold; None: the largest wins."""
        return 0.5 if self.activation == "sigmoid" and self.threshold is None else self.threshold


class ImageMetadata(_Declared):
    """All that is declared. `hook` names a Python file with `preprocess` or `postprocess` or both, which then stand
    in for what is declared here."""

    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    hook: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Python file of the model's folder, such as code/image_hook.py; needs ALLOW_CODE"
    )


def read(metadata: Mapping[str, Any]) -> ImageMetadata | None:
    """What an MLmodel file's `metadata` declares of images; None where it does not.

    Raises:
        LoadFailed: with the field that is wrong.
    """
    own = metadata.get("modelramp")
    if own is None:
        return None
    if not isinstance(own, Mapping):
        raise LoadFailed("MLmodel: metadata.modelramp must be a mapping")
    if own.get("image") is None:
        return None
    try:
        return ImageMetadata.model_validate(own["image"])
    except ValidationError as error:
        raise LoadFailed("; ".join(_sentence(detail) for detail in error.errors()[:5])) from None


def _sentence(detail: Any) -> str:
    place = ".".join(["metadata", KEY, *(str(part) for part in detail["loc"] if not _is_of_union(part))])
    why = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"MLmodel: {place} is no field of it"
    if not isinstance(detail["input"], dict):
        why += f" (it is {str(detail['input'])[:50]!r})"
    return f"MLmodel: {place}: {why[0].lower()}{why[1:]}"


def _is_of_union(part: object) -> bool:
    """pydantic puts the member of a union into the place."""
    return isinstance(part, str) and (part == "float" or "[" in part)
