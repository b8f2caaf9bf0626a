"""Masks, probability maps and overlays as PNG, in the size of the picture they are of."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from modelramp_server.images.picture import Picture
from modelramp_server.images.preprocess import View
from modelramp_server.protocol.errors import ServingError
from modelramp_server.protocol.tensors import Array

MOST_CLASSES = 256
_FAST = 1  # zlib's level: masks and maps are smooth, and a higher one costs more than it saves


def palette(colors: Sequence[str] | None, classes: int) -> list[int]:
    """256 colours as red, green, blue one after the other: those given (`#rrggbb`), then as many as are missing.

    Those not given: black for 0; white for 1 where there are two classes; else the colours of the Pascal VOC masks.
    """
    chosen = [tuple(bytes.fromhex(color[1:])) for color in colors or ()]
    if not chosen and classes <= 2:
        chosen = [(0, 0, 0), (255, 255, 255)]
    return [value for index in range(MOST_CLASSES) for value in (chosen[index : index + 1] or [_voc(index)])[0]]


def mask_png(mask: Array, view: View, colors: Sequence[int]) -> bytes:
    """The mask, in the size of the picture. Pixels are numbers of classes, shown in the palette's colours; what the
    model did not see is 0.

    Args:
        mask: (height, width) of the model's frame, integers of 0 to 255.
        colors: from `palette`.

    Raises:
        ServingError: 406, numbers that a PNG with a palette can't hold.
    """
    image = _of_labels(mask, view)
    image.putpalette(list(colors))
    return _png(image)


def probability_png(probability: Array, view: View) -> bytes:
    """A map of one class's probability, in the size of the picture: grey, 0 is 0 and 255 is 1. What the model did not
    see is 0.

    Args:
        probability: (height, width) of the model's frame, floats of 0 to 1.
    """
    grey = np.nan_to_num(probability * 255).round().clip(0, 255).astype(np.uint8)
    return _png(_placed(Image.fromarray(grey), view, Image.Resampling.BILINEAR))


def overlay_png(picture: Picture, mask: Array, view: View, colors: Sequence[int], opacity: float) -> bytes:
    """The picture, with the classes of the mask shown over it; class 0 is left as it is.

    Args:
        picture: opened anew: its pixels are decoded here, in full.
        mask: (height, width) of the model's frame, integers of 0 to 255.
        opacity: 0 to 1, of the colours.

    Raises:
        ServingError: 400, 406.
    """
    image = picture.upright(picture.pixels("RGB"))
    labels = _of_labels(mask, view)
    veil = labels.point([0] + [round(255 * opacity)] * (MOST_CLASSES - 1))
    labels.putpalette(list(colors))
    image.paste(labels.convert("RGB"), (0, 0), veil)
    return _png(image)


def _of_labels(mask: Array, view: View) -> Image.Image:
    if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) < MOST_CLASSES:
        raise ServingError(406, f"image/png holds masks of classes 0 to 255; this one goes to {int(mask.max())}")
    return _placed(Image.fromarray(np.ascontiguousarray(mask, np.uint8)), view, Image.Resampling.NEAREST)


def _placed(frame: Image.Image, view: View, how: Image.Resampling) -> Image.Image:
    """The model's frame where it belongs in the picture."""
    left, top, right, bottom = view.box
    size = view.width, view.height
    if view.box == (0, 0, *size):
        return frame if frame.size == size else frame.resize(size, how)
    x, y = frame.width / (right - left), frame.height / (bottom - top)
    return frame.transform(size, Image.Transform.AFFINE, (x, 0, -left * x, 0, y, -top * y), how)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_FAST)
    return file.getvalue()


def _voc(index: int) -> tuple[int, int, int]:
    """The colour of a class in Pascal VOC's masks: bits of the number, from the highest of each channel down."""
    red = green = blue = 0
    for bit in range(8):
        shift = 7 - bit
        red |= (index >> (3 * bit) & 1) << shift
        green |= (index >> (3 * bit + 1) & 1) << shift
        blue |= (index >> (3 * bit + 2) & 1) << shift
    return red, green, blue
