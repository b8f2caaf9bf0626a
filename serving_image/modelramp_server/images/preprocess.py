"""From a picture to the model's input, as declared. What can be known when the model is loaded is checked then, and
what can be computed then is: a request pays for one decoding, one resizing and one pass into the input's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from modelramp_server.images import KEY
from modelramp_server.images.declared import Layout, Preprocess
from modelramp_server.images.picture import Picture, words_of
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec
from modelramp_server.runtime.base import LoadFailed

# A JPEG is decoded at least so many times larger than it is needed, then resized: else it would look otherwise.
_ROOM = 2
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_AXES: dict[Layout, int] = {"NCHW": 4, "NHWC": 4, "NHW": 3}

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class View:
    """What of a picture the model saw: `box` (left, top, right, bottom) is the model's frame in pixels of the upright
    picture of `width` x `height`. It reaches beyond the picture where borders were added."""

    width: int
    height: int
    box: Box


@dataclass(frozen=True, slots=True)
class Prepared:
    """The model's input for one picture (one row), and what of the picture is in it."""

    array: Array
    view: View


class Preprocessor:
    """What is declared, for the input that it is declared for. Called from many threads."""

    def __init__(self, declared: Preprocess, inputs: Sequence[TensorSpec]) -> None:
        """Raises LoadFailed: what is declared does not fit the model's inputs."""
        self.declared = declared
        self.spec = _input(declared, inputs)
        self.layout = declared.layout or _layout(self.spec, declared.color)
        self._channels = 1 if declared.color == "gray" else 3
        self.size = self._fixed_size()
        self._dtype = DTYPES[self.spec.datatype]
        self._mode = "L" if declared.color == "gray" else "RGB"
        self._planar = self.layout == "NCHW" and self._mode == "RGB"
        self._filter = _FILTERS[declared.filter]
        self._factor, self._offset = self._affine()

    def __call__(self, picture: Picture) -> Prepared:
        """The input made of a picture.

        Raises:
            BadRequest: damaged, or of a size that the model does not take.
        """
        if self.size in (None, (picture.height, picture.width)):
            pixels = picture.words() if self._planar else picture.array(self._mode)
            return Prepared(self._array(pixels), _whole(picture))
        height, width = self.size
        if self.declared.resize == "pad":
            return self._padded(picture, width, height)
        box = self._seen(picture, width, height)
        image = self._resized(picture, width, height, box)
        return Prepared(self._array(self._pixels(image)), View(picture.width, picture.height, box))

    def told(self) -> dict[str, object]:
        """What is declared, with what was found of the input where it was not."""
        return {**self.declared.model_dump(mode="json"), "layout": self.layout, "size": self.size}

    def _seen(self, picture: Picture, width: int, height: int) -> Box:
        if self.declared.resize == "stretch":
            return 0, 0, picture.width, picture.height
        part = min(picture.width / width, picture.height / height) * self.declared.crop_pct
        left, top = (picture.width - width * part) / 2, (picture.height - height * part) / 2
        return left, top, left + width * part, top + height * part

    def _resized(self, picture: Picture, width: int, height: int, box: Box) -> Image.Image:
        """That box of the picture in that size, upright."""
        share_x, share_y = (box[2] - box[0]) / picture.width, (box[3] - box[1]) / picture.height
        enough = (round(_ROOM * width / share_x), round(_ROOM * height / share_y))
        if picture.turned:
            width, height, enough = height, width, enough[::-1]
            box = box[1], box[0], box[3], box[2]
        image = picture.pixels(self._mode, enough)
        upright = (picture.height, picture.width) if picture.turned else (picture.width, picture.height)
        x, y = image.width / upright[0], image.height / upright[1]
        part = max(0.0, box[0] * x), max(0.0, box[1] * y), min(box[2] * x, image.width), min(box[3] * y, image.height)
        return picture.upright(image.resize((width, height), self._filter, part))

    def _padded(self, picture: Picture, width: int, height: int) -> Prepared:
        part = max(picture.width / width, picture.height / height)
        inner = max(1, round(picture.width / part)), max(1, round(picture.height / part))
        left, top = round((width - inner[0]) / 2), round((height - inner[1]) / 2)
        image = self._resized(picture, *inner, (0, 0, picture.width, picture.height))
        value = self.declared.pad_value
        frame = Image.new(self._mode, (width, height), value if self._mode == "L" else (value, value, value))
        frame.paste(image, (left, top))
        x, y = picture.width / inner[0], picture.height / inner[1]
        box = -left * x, -top * y, (width - left) * x, (height - top) * y
        return Prepared(self._array(self._pixels(frame)), View(picture.width, picture.height, box))

    def _pixels(self, image: Image.Image) -> Array:
        return words_of(image) if self._planar else np.asarray(image)

    def _array(self, pixels: Array) -> Array:
        """Pixels in the input's order of axes and type, one row: a single pass where nothing is to be computed.

        Args:
            pixels: uint8, (height, width[, channels]); of `_planar` inputs words (picture.words_of).
        """
        height, width = pixels.shape[:2]
        shape = tuple({"C": self._channels, "H": height, "W": width}[axis] for axis in self.layout[1:])
        computed = self._factor is not None or self._offset is not None
        row = np.empty((1, *shape), np.float32 if computed and self._dtype.itemsize < 4 else self._dtype)
        if self._planar:
            _part(pixels, row[0][::-1] if self.declared.color == "bgr" else row[0])
        else:
            row[0] = pixels[:, :, ::-1] if self.declared.color == "bgr" else pixels.reshape(shape)
        if self._factor is not None:
            row *= self._factor
        if self._offset is not None:
            row += self._offset
        array = row if row.dtype == self._dtype else row.astype(self._dtype)
        _check(array, self.spec)
        return array

    def _fixed_size(self) -> tuple[int, int] | None:
        """(height, width) of the input; None where any will do."""
        shape = self.spec.shape
        if len(shape) != _AXES[self.layout] or shape[0] not in (-1, 1):
            raise LoadFailed(
                f"MLmodel: metadata.{KEY}.preprocess: layout {self.layout} does not fit the input "
                f"{self.spec.name!r} of shape {list(shape)}; one image is one row of it"
            )
        axis = self.layout.index("H")
        if self.layout != "NHW" and shape[self.layout.index("C")] not in (-1, self._channels):
            raise LoadFailed(
                f"MLmodel: metadata.{KEY}.preprocess: color {self.declared.color} has {self._channels} channels, "
                f"the input {self.spec.name!r} has the shape {list(shape)} ({self.layout})"
            )
        own, size = shape[axis : axis + 2], self.declared.size
        if size is None:
            return None if -1 in own else (own[0], own[1])
        if any(want not in (-1, have) for want, have in zip(own, size, strict=True)):
            raise LoadFailed(
                f"MLmodel: metadata.{KEY}.preprocess.size is {list(size)}, "
                f"the input {self.spec.name!r} has the shape {list(shape)} ({self.layout})"
            )
        return size

    def _affine(self) -> tuple[Array | None, Array | None]:
        """Factor and offset that do `(pixel * scale - mean) / std`; None where that changes nothing."""
        mean, std = (np.atleast_1d(np.asarray(each, np.float64)) for each in (self.declared.mean, self.declared.std))
        factor, offset = self.declared.scale / std, -mean / std
        if (factor == 1).all() and not offset.any():
            return None, None
        if self._dtype.kind != "f":
            raise LoadFailed(
                f"MLmodel: metadata.{KEY}.preprocess: scale, mean and std need an input of floats; "
                f"{self.spec.name!r} is {self.spec.datatype}"
            )
        return self._per_channel(factor, 1), self._per_channel(offset, 0)

    def _per_channel(self, values: Array, neutral: float) -> Array | None:
        if (values == neutral).all():
            return None
        values = values.astype(np.float64 if self._dtype.itemsize == 8 else np.float32)
        return values.reshape(-1, 1, 1) if self.layout == "NCHW" else values


def _input(declared: Preprocess, inputs: Sequence[TensorSpec]) -> TensorSpec:
    names = [spec.name for spec in inputs]
    where = f"MLmodel: metadata.{KEY}.preprocess.input"
    if declared.input is None and len(inputs) != 1:
        raise LoadFailed(f"{where} is not set, and the model has {len(inputs)} inputs: {names}")
    if len(inputs) != 1:
        raise LoadFailed(f"{where}: the model has the inputs {names}; an image fills one alone, others need a hook")
    if declared.input not in (None, names[0], "input"):
        raise LoadFailed(f"{where} is {declared.input!r}; the model's input is {names[0]!r}")
    if inputs[0].datatype in ("BYTES", "BOOL"):
        raise LoadFailed(f"{where}: {names[0]!r} is {inputs[0].datatype}, and takes no pixels")
    return inputs[0]


def _layout(spec: TensorSpec, color: str) -> Layout:
    shape, channels = spec.shape, 1 if color == "gray" else 3
    if len(shape) == 3 and color == "gray":
        return "NHW"
    first, last = (len(shape) == 4 and shape[axis] == channels for axis in (1, 3))
    if first == last:
        raise LoadFailed(
            f"MLmodel: metadata.{KEY}.preprocess.layout is not set, and the shape {list(shape)} of the input "
            f"{spec.name!r} does not tell it; set NCHW, NHWC or NHW"
        )
    return "NCHW" if first else "NHWC"


def _part(words: Array, channels: Array) -> None:
    """Red, green and blue of words, each into its plane."""
    byte = np.empty(words.shape, np.int32)
    for index, channel in enumerate(channels):
        shifted = np.right_shift(words, 8 * index, out=byte) if index else words
        channel[...] = np.bitwise_and(shifted, 0xFF, out=byte)


def _check(array: Array, spec: TensorSpec) -> None:
    if any(want not in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)):
        raise BadRequest(f"the image makes an input of shape {list(array.shape)}; the model wants {list(spec.shape)}")


def _whole(picture: Picture) -> View:
    return View(picture.width, picture.height, (0, 0, picture.width, picture.height))
