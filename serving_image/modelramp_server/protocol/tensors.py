"""Tensors of the Open Inference Protocol as numpy arrays, and the checks between the two.

A tensor from JSON is accepted only where no value changes its meaning: 1 is a fine FP32, "1" and true are not,
1.5 is no INT64, 300 is no UINT8.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from modelramp_server.protocol.errors import BadRequest

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_FEW = 1024
_LARGEST = {dtype: float(np.finfo(dtype).max) for dtype in DTYPES.values() if dtype.kind == "f"}
ACCEPTED_KINDS = {"b": "b", "u": "ui", "i": "ui", "f": "fui"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, V2 datatype and shape (-1: any size) of an input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_metadata(self) -> dict[str, object]:
        """As one entry of the V2 model metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def datatype_of(array: Array) -> str:
    """V2 datatype of an array; strings and objects are BYTES."""
    return DATATYPES.get(array.dtype, "BYTES")


def from_json(data: object, datatype: str, where: str) -> Array:
    """Turn a JSON list (flat or nested), or an array, into one of the V2 datatype, refusing what would be altered.

    Raises:
        BadRequest: ragged, of another type, or out of range.
    """
    if not isinstance(data, list | np.ndarray):
        raise BadRequest(f"{where}: data must be a list")
    if datatype == "FP32" and isinstance(data, list) and (few := _few_floats(data)) is not None:
        return few
    if datatype == "BYTES":
        return _strings(data, where)
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):
        raise BadRequest(f"{where}: data is ragged: all rows need the same length") from None
    wanted = DTYPES[datatype]
    if datatype == "UINT64" and array.dtype.kind == "f":
        array = _unsigned(data, array)
    strange = array.size and array.dtype.kind not in ACCEPTED_KINDS[wanted.kind]
    if strange or (wanted.kind != "b" and isinstance(data, list) and _has_booleans(data, array.ndim)):
        raise BadRequest(f"{where}: data has values that are no {datatype}")
    return narrow(array, wanted, where)


def narrow(array: Array, wanted: np.dtype[Any], where: str) -> Array:
    """Cast numbers to the wanted dtype, refusing those that do not fit."""
    if array.dtype == wanted:
        return array
    if wanted.kind in "ui" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise BadRequest(f"{where}: data has values outside {limits.min} to {limits.max}")
    if array.dtype == np.float64 and _squares(array) < _LARGEST.get(wanted, 0.0):
        return array.astype(wanted)
    try:
        with np.errstate(over="raise"):
            return array.astype(wanted)
    except FloatingPointError:
        raise BadRequest(f"{where}: data has values too large for {DATATYPES[wanted]}") from None


def from_bytes(raw: memoryview, datatype: str, where: str) -> Array:
    """Turn the little-endian bytes of the binary tensor extension into a flat array.

    Raises:
        BadRequest: the length is no multiple of the item size, or a string runs past the end.
    """
    if datatype == "BYTES":
        return _length_prefixed(raw, where)
    dtype = DTYPES[datatype]
    if len(raw) % dtype.itemsize:
        raise BadRequest(f"{where}: {len(raw)} bytes are no multiple of {dtype.itemsize} ({datatype})")
    if datatype == "BOOL":
        return np.frombuffer(raw, dtype=np.uint8).astype(np.bool_)
    return np.frombuffer(raw, dtype=dtype)


def to_bytes(array: Array) -> bytes:
    """The binary tensor extension's form of an output."""
    if datatype_of(array) != "BYTES":
        return np.ascontiguousarray(array).tobytes()
    parts = [item if isinstance(item, bytes) else as_text(item).encode() for item in array.ravel().tolist()]
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def to_json(array: Array) -> Any:
    """Something orjson can write: flat, row-major. Numbers that JSON lacks become the strings that the
    protobuf JSON mapping gives them: "NaN", "Infinity", "-Infinity"."""
    flat = array.ravel()
    if flat.dtype.kind == "f":
        return flat if is_finite(flat) else [_number(value) for value in flat.tolist()]
    if datatype_of(flat) == "BYTES":
        return [as_text(item) for item in flat.tolist()]
    return flat


def is_finite(array: Array) -> bool:
    """False where a float array holds NaN or an infinity."""
    return array.dtype.kind != "f" or _squares(array) < math.inf or bool(np.isfinite(array).all())


def _squares(array: Array) -> float:
    """The sum of a few floats' squares: where it is small, so are they, and it is found in no time; else infinite."""
    return float(np.vdot(array, array)) if array.size <= _FEW else math.inf


def fits(array: Array, spec: TensorSpec) -> bool:
    """Whether an array has the rank, and the sizes on fixed axes, that are declared."""
    shape = array.shape
    if len(shape) != len(spec.shape):
        return False
    for want, have in zip(spec.shape, shape, strict=False):  # noqa: SIM110 - `all` of a generator takes twice as long
        if want not in (-1, have):
            return False
    return True


def check_shape(array: Array, spec: TensorSpec, where: str) -> None:
    """Compare an array with what the model declares.

    Raises:
        BadRequest: other rank, other size on a fixed axis, or no rows.
    """
    if not fits(array, spec):
        raise BadRequest(f"{where}: shape {list(array.shape)} does not fit the model's {list(spec.shape)}")
    if array.size == 0:
        raise BadRequest(f"{where}: shape {list(array.shape)} is empty; at least one value is needed")


def rows_of(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> int:
    """The rows of a request: the size of its inputs' first axis where the model leaves that free, else 1.

    Raises:
        BadRequest: inputs with different numbers of rows.
    """
    rows = 0
    for spec in specs:
        if spec.shape and spec.shape[0] == -1:
            count = inputs[spec.name].shape[0]
            if count != rows and rows:
                raise BadRequest(f"inputs have different numbers of rows: {sorted((rows, count))}")
            rows = count
    return rows or 1


def parse_shape(shape: object, where: str) -> tuple[int, ...]:
    """The shape of a V2 tensor.

    Raises:
        BadRequest: not a list of non-negative integers.
    """
    for size in shape if isinstance(shape, list) else (None,):
        if type(size) is not int or size < 0:
            raise BadRequest(f"{where}: shape must be a list of non-negative integers")
    assert isinstance(shape, list)
    if len(shape) > 32:
        raise BadRequest(f"{where}: shape has {len(shape)} axes; at most 32 are served")
    return tuple(shape)


def reshape(array: Array, shape: tuple[int, ...], where: str) -> Array:
    """Give flat or nested data its declared shape.

    Raises:
        BadRequest: the count of values differs, nested data has another shape, or no array may be so long.
    """
    if array.shape == shape:
        return array
    if array.size != math.prod(shape):
        raise BadRequest(f"{where}: shape {list(shape)} needs {math.prod(shape)} values, data has {array.size}")
    if array.ndim > 1:
        raise BadRequest(f"{where}: data is nested as {list(array.shape)}, shape says {list(shape)}")
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):  # a zero among its sizes hides how large the others are
        raise BadRequest(f"{where}: shape {list(shape)} is beyond what an array may have") from None


def _few_floats(data: list[Any]) -> Array | None:
    """A short list of floats as FP32, which takes a third of numpy's time; None where that must look at it. (Integers
    become floats of 64 bits here before they are rounded to 32.)"""
    if len(data) > _FEW or set(map(type, data)) != {float}:
        return None
    memory = bytearray(4 * len(data))
    try:
        _packing(len(data)).pack_into(memory, 0, *data)
    except OverflowError:
        return None
    return np.frombuffer(memory, np.float32)


@lru_cache(_FEW)
def _packing(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}f")


def _has_booleans(data: Iterable[Any], depth: int) -> bool:
    """In lists in lists. Beside numbers numpy takes them for 0 and 1."""
    for _ in range(depth - 1):
        data = chain.from_iterable(data)
    return bool in map(type, data)


def _unsigned(data: list[Any] | Array, array: Array) -> Array:
    """What numpy took for floats, because integers above 2^63 stood beside smaller ones; else the array as it is."""
    items = np.asarray(data, dtype=object)
    whole = all(type(item) is int and 0 <= item < 2**64 for item in items.ravel())
    return items.astype(np.uint64) if whole else array


def _strings(data: list[Any] | Array, where: str) -> Array:
    try:
        array = np.array(data, dtype=object)
    except ValueError:
        raise BadRequest(f"{where}: data is ragged: all rows need the same length") from None
    if not all(isinstance(item, str) for item in array.ravel()):
        raise BadRequest(f"{where}: data has values that are no strings (BYTES)")
    return array


def _length_prefixed(raw: memoryview, where: str) -> Array:
    items: list[str] = []
    position = 0
    while position < len(raw):
        end = position + 4 + int.from_bytes(raw[position : position + 4], "little")
        if position + 4 > len(raw) or end > len(raw):
            raise BadRequest(f"{where}: a string runs past the end of the tensor's bytes")
        try:
            items.append(bytes(raw[position + 4 : end]).decode())
        except UnicodeDecodeError:
            raise BadRequest(f"{where}: a string is not UTF-8") from None
        position = end
    return np.array(items, dtype=object)


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def as_text(item: object) -> str:
    """An element of BYTES: what is no text is JSON.

    Raises:
        TypeError: it can't be.
    """
    if isinstance(item, str):
        return item
    if isinstance(item, bytes):
        return item.decode(errors="replace")
    return orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY).decode()
