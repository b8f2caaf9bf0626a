"""Arrays as `.npy`, numpy's own format: read without pickle, and judged by the header before any memory is taken."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.lib import format as npy

from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.tensors import ACCEPTED_KINDS, DTYPES, Array, TensorSpec, check_shape, narrow

_HEADER_LIMIT = 4096  # bytes, of a literal that numpy parses
_KINDS = "biuf"
_MOST_AXES = 32


def read(body: bytes) -> Array:
    """The array, as a view of the body where its order of axes allows it.

    Raises:
        BadRequest: not readable, holds other than numbers or booleans, or is not as long as its header says.
    """
    file = io.BytesIO(body)
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file, max_header_size=_HEADER_LIMIT)
        elif version == (2, 0):
            shape, fortran, dtype = npy.read_array_header_2_0(file, max_header_size=_HEADER_LIMIT)
        else:
            raise ValueError(f"format version {version[0]}.{version[1]} is for field names that a model has not")
    except Exception as error:  # numpy parses the header as Python, and that may fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BadRequest(f"npy: the header can't be read: {reason}") from None
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise BadRequest(f"npy: the array is of {dtype.name[:50]}; numbers and booleans are served, objects never")
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise BadRequest(f"npy: the shape has {len(shape)} axes, or one below 0")
    want, have = math.prod(shape) * dtype.itemsize, len(body) - file.tell()
    if want != have:
        raise BadRequest(f"npy: shape {list(shape)} of {dtype.name} takes {want} bytes, the body has {have}")
    array = np.frombuffer(body, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def write(array: Array) -> bytes:
    """The array as a `.npy` file.

    Raises:
        ValueError: it holds other than numbers and booleans.
    """
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def as_input(array: Array, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The array as the model's one input; one row may come without the axis of rows.

    Raises:
        BadRequest: the model has several inputs, or wants other values or another shape.
    """
    if len(inputs) != 1:
        raise BadRequest(f"npy: one array, and the model has the inputs {[spec.name for spec in inputs]}; send JSON")
    spec = inputs[0]
    if spec.datatype == "BYTES" or array.dtype.kind not in ACCEPTED_KINDS[DTYPES[spec.datatype].kind]:
        raise BadRequest(f"npy: the array is of {array.dtype.name}, the model wants {spec.datatype}")
    if array.ndim == len(spec.shape) - 1 and spec.shape[0] in (-1, 1):
        array = array[None]
    check_shape(array, spec, "npy")
    return {spec.name: np.ascontiguousarray(narrow(array, DTYPES[spec.datatype], "npy"))}
