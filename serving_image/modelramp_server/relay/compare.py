"""Does the candidate's answer to a copied request say what stable's says? Pure: bodies in, agreement out.

Classes must be equal, masks must overlap, numbers must be near. Where an answer has classes or masks, the numbers
beside them (probabilities, say) are not compared: a better model has others.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import orjson

from modelramp_server.exchange import HEADER_LENGTH, PROTOBUF, Answer
from modelramp_server.images import npy
from modelramp_server.protocol.errors import ServingError
from modelramp_server.protocol.tensors import DTYPES, Array, from_bytes
from modelramp_server.relay.split import Shadow

MASK_AXES = 3  # the batch's among them
NOISE = 1e-6  # numbers nearer than this are equal, however small they are
MASK_SIDE = 1024  # a mask that comes as a picture is compared in this size at most
BACKGROUND = 0

Outputs = Mapping[str, Array]


class Agreement(StrEnum):
    """The label `result` of `modelramp_shadow_answers_total`."""

    AGREE = "agree"
    DISAGREE = "disagree"
    INCOMPARABLE = "incomparable"


def compare(route: str, stable: Answer, candidate: Answer, rules: Shadow) -> Agreement:
    """Compare two answers to one request; both have status 2xx.

    Args:
        route: `infer` (V2, JSON or binary tensors), `invocations` (MLflow's JSON) or `predict` (JSON, npy, PNG).
    """
    mine, theirs = outputs(route, stable), outputs(route, candidate)
    if mine is None or theirs is None:
        return Agreement.INCOMPARABLE
    return Agreement.AGREE if agree(mine, theirs, rules) else Agreement.DISAGREE


def outputs(route: str, answer: Answer) -> Outputs | None:
    """The answer's outputs by name; None where the body is in no form that is known here."""
    headers = dict(answer.headers)
    if b"content-encoding" in headers:
        return None
    if headers.get(b"content-type") == PROTOBUF:
        from modelramp_server.rpc.codec import outputs_of

        return outputs_of(answer.body)
    try:
        if route == "predict":
            return _predict(answer.body, headers.get(b"content-type", b""))
        if route == "infer":
            return _v2(answer.body, headers.get(HEADER_LENGTH))
        return _mlflow(orjson.loads(answer.body)["predictions"])
    except (ValueError, TypeError, KeyError, ArithmeticError, OSError, SyntaxError, ServingError):
        return None


def agree(mine: Outputs, theirs: Outputs, rules: Shadow) -> bool:
    """Whether all outputs that count say the same, in every row."""
    if mine.keys() != theirs.keys():
        return False
    telling = [name for name in mine if not _is_number(mine[name]) and not _is_number(theirs[name])]
    return all(_same(mine[name], theirs[name], rules) for name in telling or mine)


def iou(one: Array, other: Array) -> float:
    """Intersection over union of two label masks: the mean over the labels that either has, 0 (background) left out."""
    labels, index = np.unique(np.stack([one.ravel(), other.ravel()]), return_inverse=True)
    first, second = index.reshape(2, -1)
    count = len(labels)
    both = np.bincount(first[first == second], minlength=count)
    either = np.bincount(first, minlength=count) + np.bincount(second, minlength=count) - both
    shown = labels != BACKGROUND
    return float(np.mean(both[shown] / either[shown])) if shown.any() else 1.0


def _is_number(array: Array) -> bool:
    return array.dtype.kind == "f"


def _same(mine: Array, theirs: Array, rules: Shadow) -> bool:
    if mine.shape != theirs.shape:
        return False
    kinds = mine.dtype.kind + theirs.dtype.kind
    if "O" in kinds:
        return bool(np.array_equal(mine, theirs))
    if "f" in kinds:
        return _near(mine, theirs, rules.tolerance)
    if mine.ndim >= MASK_AXES:
        return all(iou(one, other) >= rules.iou for one, other in zip(mine, theirs, strict=True))
    return bool(np.array_equal(mine, theirs))


def _near(mine: Array, theirs: Array, tolerance: float) -> bool:
    """Within the tolerance relative to the larger one. NaN and infinities are near themselves only."""
    one, other = mine.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return False
    one, other = one[finite], other[finite]
    room = np.maximum(tolerance * np.maximum(np.abs(one), np.abs(other)), NOISE)
    return bool((np.abs(one - other) <= room).all())


def _v2(body: bytes, header_length: bytes | None) -> Outputs:
    length = len(body) if header_length is None else int(header_length)
    tail, position, found = memoryview(body)[length:], 0, {}
    for entry in orjson.loads(body[:length])["outputs"]:
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = _typed(entry["data"], entry["datatype"])
        else:
            array = from_bytes(tail[position : position + size], entry["datatype"], entry["name"])
            position += size
        found[entry["name"]] = array.reshape(entry["shape"])
    return found


def _typed(data: Any, datatype: str) -> Array:
    """Floats may be written as "NaN" and "Infinity", which numpy reads."""
    kind = DTYPES[datatype].kind
    return np.asarray(data, dtype=np.float64 if kind == "f" else DTYPES[datatype])


def _mlflow(predictions: Any) -> Outputs:
    if isinstance(predictions, dict):
        return {name: _untyped(value) for name, value in predictions.items()}
    if predictions and all(isinstance(row, dict) for row in predictions):
        return {name: _untyped([row[name] for row in predictions]) for name in predictions[0]}
    return {"": _untyped(predictions)}


def _predict(body: bytes, kind: bytes) -> Outputs | None:
    """JSON, npy, or the PNG of a mask; of other pictures nothing can be said."""
    if kind == b"application/x-npy":
        return {"": npy.read(body)}
    if kind != b"image/png":
        return _mlflow(orjson.loads(body)["predictions"])
    from modelramp_server.images.picture import labels_of

    mask = labels_of(body, MASK_SIDE)
    return None if mask is None else {"": mask[None]}


def _untyped(value: Any) -> Array:
    """Strings are classes, unless there are numbers among them: then they are those that JSON lacks."""
    array = np.asarray(value)
    if array.dtype.kind != "U":
        return array
    items = np.array(value, dtype=object)
    return items if all(isinstance(item, str) for item in items.ravel()) else items.astype(np.float64)
