"""All that stands around a model of images: bytes to its inputs, its outputs to findings, findings to pictures.

Pure, and called from many threads; what the server answers with it and what batch scoring writes are made by it alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelramp_server.images import KEY, render
from modelramp_server.images.declared import ImageMetadata, Postprocess
from modelramp_server.images.hook import Hook, found, prepared
from modelramp_server.images.picture import Picture, check_pixels, of_array, open_picture
from modelramp_server.images.postprocess import Findings, Postprocessor, named
from modelramp_server.images.preprocess import Preprocessor, View
from modelramp_server.images.sniff import Kind, kind_of
from modelramp_server.protocol.errors import BadRequest, ServingError
from modelramp_server.protocol.tensors import Array, TensorSpec


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """The model's inputs for one picture (one row), and what of the picture the model sees in them."""

    arrays: dict[str, Array]
    view: View


class ImagePipeline:
    """What one model declares, ready for use."""

    def __init__(
        self, declared: ImageMetadata, hook: Hook | None, inputs: Sequence[TensorSpec], max_pixels: int
    ) -> None:
        """Raises LoadFailed: what is declared does not fit the model."""
        self._inputs = inputs
        self._max_pixels = max_pixels
        self._before = hook.preprocess if hook is not None else None
        self._after = hook.postprocess if hook is not None else None
        self._preprocessor = (
            Preprocessor(declared.preprocess, inputs) if declared.preprocess is not None and not self._before else None
        )
        self._exif_rotation = declared.preprocess is None or declared.preprocess.exif_rotation
        layout = self._preprocessor.layout if self._preprocessor is not None else "NCHW"
        after = declared.postprocess
        self._postprocessor = Postprocessor(after, layout) if after is not None else None
        self._declared_after = after or Postprocess()

    @property
    def pixels(self) -> int | None:
        """Of the input that is made of a picture; None where that depends on the picture, or on a hook."""
        size = self._preprocessor.size if self._preprocessor is not None else None
        return None if size is None else size[0] * size[1]

    def told(self) -> dict[str, object]:
        """What is declared and in force, for people: as in the MLmodel file, with the layout and defaults found."""
        before, after = self._preprocessor, self._postprocessor
        return {
            "preprocess": "hook" if self._before else before and before.told(),
            "postprocess": "hook" if self._after else after and after.declared.model_dump(mode="json"),
        }

    def open(self, body: bytes, kind: Kind) -> Picture:
        """A JPEG or PNG by its header.

        Raises:
            ServingError: 400, 413.
        """
        return open_picture(body, kind, self._max_pixels, self._exif_rotation)

    def of_array(self, array: Array) -> Picture:
        """Pixels as a picture: uint8, (height, width) or (height, width, channels).

        Raises:
            ServingError: 400, 413.
        """
        picture = of_array(array)
        check_pixels(picture.width, picture.height, self._max_pixels)
        return picture

    def read(self, body: bytes) -> ImageInputs:
        """A JPEG or PNG file as the model's inputs.

        Raises:
            ServingError: 400 (damaged), 413 (too many pixels), 415 (no JPEG or PNG), 500 (the hook failed).
        """
        kind = kind_of(body, "")
        if kind not in (Kind.JPEG, Kind.PNG):
            raise ServingError(415, f"the bytes are {kind.value}, no image; send image/png or image/jpeg")
        return self.prepare(self.open(body, kind))

    def prepare(self, picture: Picture) -> ImageInputs:
        """The model's inputs for a picture.

        Raises:
            ServingError: 400 (damaged, or a size that the model does not take), 415 (how is not declared), 500 (the
                hook failed).
        """
        if self._before is not None:
            pixels = picture.array("RGB")
            whole = View(picture.width, picture.height, (0, 0, picture.width, picture.height))
            return ImageInputs(prepared(self._before, pixels, self._inputs), whole)
        if self._preprocessor is None:
            raise ServingError(
                415, f"the model declares no preprocess (metadata.{KEY}): send its inputs as npy or JSON"
            )
        made = self._preprocessor(picture)
        return ImageInputs({self._preprocessor.spec.name: made.array}, made.view)

    def find(self, outputs: Mapping[str, Array]) -> Findings:
        """What the outputs for some rows mean.

        Raises:
            ModelFailed: the hook failed, or the outputs are not such as is declared.
        """
        if self._after is not None:
            return named(found(self._after, outputs))
        return named(outputs) if self._postprocessor is None else self._postprocessor(outputs)

    def mask_png(self, findings: Findings, row: int, view: View) -> bytes:
        """A row's mask in the size of its picture, as a PNG whose pixels are numbers of classes.

        Raises:
            ServingError: 406, there is no mask, or not one of 256 classes at most.
        """
        return render.mask_png(_mask(findings)[row], view, self._palette(findings))

    def overlay_png(self, findings: Findings, row: int, view: View, picture: Picture, opacity: float = 0.5) -> bytes:
        """A row's mask over its picture, which is to be opened anew.

        Raises:
            ServingError: 406, as for `mask_png`; 400, the picture is damaged.
        """
        return render.overlay_png(picture, _mask(findings)[row], view, self._palette(findings), opacity)

    def probability_png(self, findings: Findings, row: int, view: View, number: int = -1) -> bytes:
        """A map of one class's probability, by its number; -1 is the last class.

        Raises:
            ServingError: 406, the model tells no probabilities of pixels; 400, it has no such class.
        """
        probabilities = findings.probabilities()
        if probabilities is None or probabilities.ndim != 4:
            raise ServingError(406, "the model tells no probabilities of pixels")
        if not -1 <= number < probabilities.shape[1]:
            raise BadRequest(f"class {number}: the model tells probabilities of {probabilities.shape[1]} classes")
        return render.probability_png(probabilities[row, number], view)

    def _palette(self, findings: Findings) -> list[int]:
        mask = _mask(findings)
        highest = len(findings.names) - 1 if findings.names else int(mask.max()) if mask.size else 0
        return render.palette(self._declared_after.colors, highest + 1)


def _mask(findings: Findings) -> Array:
    if findings.mask is None:
        raise ServingError(406, f"the model tells no mask; it tells {sorted(findings.arrays)}")
    return findings.mask
