"""`/predict`: a file in, what it shows out. One more dialect: its requests wait in the same queue, and are relayed,
copied, counted and recorded like all others.

A body is an image, or the model's input itself: as npy, or as JSON in any of the forms of `/invocations`. The answer is
JSON, or by `Accept` a PNG of the mask, or npy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from modelramp_server.batching.model_thread import LoadedModel
from modelramp_server.exchange import JSON, Answer, InferenceRequest
from modelramp_server.images import KEY, npy, structure
from modelramp_server.images.multipart import only_part
from modelramp_server.images.postprocess import Findings, named
from modelramp_server.images.sniff import Kind, kind_of
from modelramp_server.images.wanted import Wanted, wanted
from modelramp_server.prediction import Prediction, draw
from modelramp_server.protocol import invocations
from modelramp_server.protocol.errors import BadRequest, ServingError
from modelramp_server.protocol.tensors import Array, rows_of

if TYPE_CHECKING:
    from modelramp_server.images.pipeline import ImageInputs, ImagePipeline
    from modelramp_server.images.preprocess import View

ROUTE = "predict"
_FORM = b"multipart/form-data"
_OFF_LOOP = 1 << 62
_PIXEL = 2  # as much work as so many bytes of JSON


@dataclass(slots=True)
class PredictRequest:
    """A checked request. `view` is what the model sees of its image, None where there is none; `file` is that image,
    kept where it is to be shown again."""

    inputs: dict[str, Array]
    rows: int
    wanted: Wanted
    view: View | None = None
    file: tuple[bytes, Kind] | None = None
    params: bytes = b""


class Predict:
    """The dialect. `pipeline` is what the model declares of images, None where it declares nothing."""

    def __init__(self, pipeline: ImagePipeline | None) -> None:
        self._pipeline = pipeline

    def decoding(self, request: InferenceRequest) -> int:
        """See Dialect. However small a file is, it may take a while: all but plain JPEGs, by their pixels and those of
        the input that is made of them."""
        made = self._pipeline.pixels if self._pipeline is not None else None
        head = structure.baseline(bytes(request.body)) if made is not None else None
        if made is None or head is None:
            return _OFF_LOOP
        return len(request.body) + _PIXEL * max(head.width * head.height, made)

    def encoding(self, decoded: PredictRequest, outputs: Mapping[str, Array]) -> int:
        """See Dialect."""
        if decoded.wanted.kind is Kind.PNG:
            return _OFF_LOOP
        return sum(array.nbytes for array in outputs.values())

    def decode(self, request: InferenceRequest, model: LoadedModel) -> PredictRequest:
        """See Dialect."""
        headers = dict(request.headers)
        asked = wanted(headers.get(b"accept", b"").decode("latin-1").strip(), request.path.partition("?")[2])
        if asked.kind is Kind.PNG and self._pipeline is None:
            raise _no_mask(spec.name for spec in model.outputs)
        body, declared = bytes(request.body), request.content_type.decode("latin-1")
        if request.content_type == _FORM:
            body, declared = only_part(body, headers[b"content-type"])
        kind = kind_of(body, declared)
        if kind in (Kind.JPEG, Kind.PNG):
            images = self._images()
            return _of_image(images.prepare(images.open(body, kind)), asked, (body, kind))
        if asked.opacity is not None:
            raise BadRequest("overlay: lies over a PNG or JPEG; the body is neither")
        if kind is Kind.JSON:
            given = invocations.decode(body, model)
            return PredictRequest(given.inputs, given.rows, asked, params=given.params)
        array = npy.read(body)
        if self._pipeline is not None and array.dtype == np.uint8 and array.ndim in (2, 3) and _not(array, model):
            return _of_image(self._pipeline.prepare(self._pipeline.of_array(array)), asked, None)
        inputs = npy.as_input(array, model.inputs)
        return PredictRequest(inputs, rows_of(inputs, model.inputs), asked)

    def encode(self, decoded: PredictRequest, outputs: Mapping[str, Array]) -> Answer:
        """See Dialect."""
        findings = self._pipeline.find(outputs) if self._pipeline is not None else named(outputs)
        if decoded.wanted.kind is Kind.PNG:
            answer = Answer(200, self._png(decoded, findings), [(b"content-type", Kind.PNG.encode())])
        elif decoded.wanted.kind is Kind.NPY:
            answer = Answer(200, _npy(findings, decoded.wanted.output), [(b"content-type", Kind.NPY.encode())])
        else:
            answer = Answer(200, _json(findings, decoded.wanted.output, decoded.rows), [JSON])
        answer.prediction = _drawn(findings)
        return answer

    def _images(self) -> ImagePipeline:
        if self._pipeline is None:
            raise ServingError(
                415,
                f"the model does not say how an image becomes its input (metadata.{KEY} of MLmodel); send its input "
                "as application/x-npy or application/json",
            )
        return self._pipeline

    def _png(self, decoded: PredictRequest, findings: Findings) -> bytes:
        if self._pipeline is None or findings.mask is None:
            raise _no_mask(findings.arrays)
        if decoded.rows != 1:
            raise ServingError(406, f"image/png shows one mask; the request has {decoded.rows} rows")
        view = decoded.view or _frame(findings.mask)
        asked = decoded.wanted
        if asked.output == "probabilities":
            return self._pipeline.probability_png(findings, 0, view, asked.number)
        if asked.opacity is None:
            return self._pipeline.mask_png(findings, 0, view)
        assert decoded.file is not None
        return self._pipeline.overlay_png(findings, 0, view, self._pipeline.open(*decoded.file), asked.opacity)


def _no_mask(outputs: Iterable[str]) -> ServingError:
    return ServingError(406, f"image/png shows masks; this model tells {sorted(outputs)}. Accept application/json")


def _of_image(made: ImageInputs, asked: Wanted, file: tuple[bytes, Kind] | None) -> PredictRequest:
    return PredictRequest(made.arrays, 1, asked, made.view, file if asked.opacity is not None else None)


def _not(array: Array, model: LoadedModel) -> bool:
    """Whether an array is no input of the model as it stands."""
    return all(spec.datatype != "UINT8" or len(spec.shape) != array.ndim for spec in model.inputs)


def _frame(mask: Array) -> View:
    from modelramp_server.images.preprocess import View

    height, width = mask.shape[1:]
    return View(width, height, (0, 0, width, height))


def _told(findings: Findings, name: str) -> Array:
    """One array by its name.

    Raises:
        BadRequest: there is none.
    """
    array = findings.arrays.get(name)
    if array is None and name == "probabilities":
        array = findings.probabilities()
    if array is None:
        raise BadRequest(f"output is {name[:100]!r}; the model tells {sorted(findings.arrays)}")
    return array


def _npy(findings: Findings, name: str) -> bytes:
    array = _told(findings, name or next(iter(findings.arrays)))
    if array.dtype.kind not in "biuf":
        raise ServingError(
            406, f"application/x-npy holds numbers, {name or 'this output'} is text; ask for ?output=probabilities"
        )
    return npy.write(array)


def _json(findings: Findings, name: str, rows: int) -> bytes:
    """`predictions`: a record for each row."""
    arrays = {name: _told(findings, name)} if name else findings.arrays
    lists = {each: _values(array) for each, array in arrays.items()}
    predictions: Any = lists
    if all(array.ndim and len(array) == rows for array in arrays.values()):
        predictions = [{each: values[row] for each, values in lists.items()} for row in range(rows)]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _values(array: Array) -> Any:
    """What orjson can write of an array, and of each of its rows."""
    whole = array.ndim == 1 and array.dtype.kind in "iub"
    return array.tolist() if whole else invocations.as_lists(array)


def _drawn(findings: Findings) -> Prediction | None:
    """One prediction, by the name of its class. Of a mask: a pixel's."""
    drawn = draw({"mask": findings.mask} if findings.mask is not None else findings.arrays)
    if drawn is None or findings.mask is None or not drawn.name.isdigit() or int(drawn.name) >= len(findings.names):
        return drawn
    return Prediction(findings.names[int(drawn.name)], drawn.confidence)
