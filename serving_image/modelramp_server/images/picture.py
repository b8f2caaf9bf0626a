"""Opening what a stranger sent: the header is judged before a pixel is decoded, and nothing but JPEG and PNG is tried.

Pillow's own classes are called, not `Image.open`, which would try every format that is installed. A baseline JPEG that
is needed in full is decoded straight into an array by simplejpeg, to the same pixels in half of the time, and without
EXIF not shown to Pillow at all; whatever simplejpeg balks at, Pillow judges.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin, PngImagePlugin

from modelramp_server.images import structure
from modelramp_server.images.sniff import Kind
from modelramp_server.protocol.errors import BadRequest, ServingError
from modelramp_server.protocol.tensors import Array

_LARGEST_MASK = 1 << 27  # pixels
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS = (5, 6, 7, 8)
_SPACES = {"RGB": "RGB", "L": "GRAY"}  # simplejpeg's names of Pillow's modes
_RGBX = "RGBX"  # of four bytes, in both libraries
_WORD = "<i4"
_MODES = {1: "L", 3: "RGB"}  # of JPEGs, by channels

# Pillow warns of what it makes do with; a stranger's file is no news.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Picture:
    """An image whose header is read and found harmless; its pixels are not decoded yet. `width` and `height` are those
    of the picture upright; `turned`: they are the other way round in the file."""

    def __init__(
        self, size: tuple[int, int], mode: str, orientation: int, open_: Callable[[], Image.Image], jpeg: bytes = b""
    ) -> None:
        """
        Args:
            size: (width, height) in the file.
            mode: Pillow's name of what it holds.
            orientation: how it is turned, in EXIF's numbers; 1 is upright.
            open_: Pillow's image of it.
            jpeg: the file, if it is one.
        """
        self._size = size
        self._mode = mode
        self._open = open_
        self._jpeg = jpeg
        self._orientation = orientation
        self.turned = orientation in _SWAPS
        width, height = size
        self.width, self.height = (height, width) if self.turned else (width, height)

    def pixels(self, mode: str, at_least: tuple[int, int] | None = None) -> Image.Image:
        """Decode, as `RGB` or `L`, not yet turned upright. 16 bits are read as their upper 8, transparency is left
        out, CMYK is turned into RGB without its profile.

        Args:
            mode: `RGB` or `L`.
            at_least: (width, height) in the file's orientation that are enough; a JPEG is then decoded smaller.

        Raises:
            BadRequest: damaged or cut short, or Pillow can't read its header.
        """
        image = self._open()
        if at_least is not None:
            image.draft(mode, at_least)
        try:
            image.load()
            return _as(image, mode)
        except (OSError, SyntaxError, ValueError, IndexError, EOFError, TypeError) as error:
            raise BadRequest(f"the image is damaged or cut short: {_text(error)}") from None

    def array(self, mode: str) -> Array:
        """All of its pixels, upright: uint8, (height, width, 3) for `RGB`, (height, width) for `L`. Not to be written.

        Raises:
            BadRequest: damaged or cut short.
        """
        found = self._decoded(mode, _SPACES[mode])
        if found is None:
            return np.asarray(self.upright(self.pixels(mode)))
        array = found if mode == "RGB" else found[:, :, 0]
        return array if self._orientation == 1 else np.asarray(self.upright(Image.fromarray(array)))

    def words(self) -> Array:
        """The same for `RGB`, as `words_of` has it.

        Raises:
            BadRequest: damaged or cut short.
        """
        if self._orientation != 1:
            return words_of(Image.fromarray(self.array("RGB")))
        found = self._decoded("RGB", _RGBX)
        return words_of(self.pixels("RGB")) if found is None else found.view(_WORD)[:, :, 0]

    def _decoded(self, mode: str, space: str) -> Array | None:
        """A JPEG of that mode, not turned; None for what is none, and where simplejpeg refuses it."""
        if not self._jpeg or self._mode != mode:
            return None
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(self._jpeg)
            if (width, height) != self._size:
                return None
            found: Array = simplejpeg.decode_jpeg(self._jpeg, space)
        except (ValueError, RuntimeError):
            return None
        found.setflags(write=False)
        return found

    def upright(self, image: Image.Image) -> Image.Image:
        """What was made of the pixels, turned as the picture is to be seen."""
        turn = _TURNS.get(self._orientation)
        return image if turn is None else image.transpose(turn)


def words_of(image: Image.Image) -> Array:
    """An RGB image as int32, (height, width): red in the lowest byte, then green, then blue. So lies it in memory, and
    a channel is three times as quickly had as from bytes in threes. Not to be written."""
    return np.frombuffer(image.tobytes("raw", _RGBX), _WORD).reshape(image.height, image.width)


def of_array(array: Array) -> Picture:
    """A picture of decoded pixels: uint8 of the shape (height, width) or (height, width, 1, 3 or 4).

    Raises:
        BadRequest: of another shape.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise BadRequest(f"npy: an image of shape {list(array.shape)}; it must be (height, width[, 1, 3 or 4])")
    image = Image.fromarray(np.ascontiguousarray(array))
    return Picture(image.size, image.mode, 1, lambda: image)


def labels_of(body: bytes, side: int) -> Array | None:
    """The numbers of classes in a mask, as `render.mask_png` writes it, at most `side` pixels wide and high; None for
    any other PNG.

    Raises:
        OSError, SyntaxError: no PNG.
        ServingError: too large.
    """
    image = PngImagePlugin.PngImageFile(io.BytesIO(body))
    check_pixels(*image.size, _LARGEST_MASK)
    if image.mode != "P":
        return None
    return np.asarray(image.resize((min(side, image.width), min(side, image.height)), Image.Resampling.NEAREST))


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse what would be too large when decoded.

    Raises:
        ServingError: 413.
    """
    if width * height > max_pixels:
        raise ServingError(
            413, f"the image has {width} x {height} pixels; at most {max_pixels} are decoded (MAX_PIXELS)"
        )


def open_picture(body: bytes, kind: Kind, max_pixels: int, exif_rotation: bool = True) -> Picture:
    """Read the header of a JPEG or PNG, and judge it.

    Args:
        kind: what the bytes are (sniff.kind_of).
        max_pixels: width times height at most.
        exif_rotation: take a photo as its EXIF turns it.

    Raises:
        BadRequest: not readable, animated, or made to be slow.
        ServingError: 413, too many pixels.
    """
    head = structure.baseline(body) if kind is Kind.JPEG else None
    if head is None or body.count(structure.SCAN) > 1:
        structure.check(body, kind)
    if head is not None and not (head.exif and exif_rotation):
        size = head.width, head.height
        check_pixels(*size, max_pixels)
        return Picture(size, _MODES[head.channels], 1, partial(_opened_as, body, size), body)
    image = _opened(body, kind)
    check_pixels(*image.size, max_pixels)
    if getattr(image, "is_animated", False):
        raise BadRequest("the PNG is animated; send one picture")
    jpeg = body if kind is Kind.JPEG else b""
    return Picture(image.size, image.mode, _orientation(image) if exif_rotation else 1, lambda: image, jpeg)


def _opened_as(body: bytes, size: tuple[int, int]) -> Image.Image:
    """A JPEG whose size is known."""
    image = _opened(body, Kind.JPEG)
    if image.size != size:
        raise BadRequest("the image's header can be read in two ways")
    return image


def _opened(body: bytes, kind: Kind) -> Image.Image:
    plugin = JpegImagePlugin.JpegImageFile if kind is Kind.JPEG else PngImagePlugin.PngImageFile
    try:
        return plugin(io.BytesIO(body))
    except Exception as error:  # whatever a parser of strangers' bytes may raise
        raise BadRequest(f"the image's header can't be read ({kind}): {_text(error)}") from None


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF turns nothing
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _as(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _text(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
