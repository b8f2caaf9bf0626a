"""MLflow's scoring protocol: `dataframe_split`, `dataframe_records`, `instances`, `inputs`, CSV in; `predictions` out.

Specification: mlflow.org, "Local inference server"; no pandas is needed. A frame for a model with one input of
rank 2 is that input's matrix; otherwise its columns are the model's inputs, and columns beside them are ignored.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from modelramp_server.protocol import csv_frame
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.outputs import Named, Records
from modelramp_server.protocol.params import Params
from modelramp_server.protocol.tensors import (
    DTYPES,
    Array,
    TensorSpec,
    check_shape,
    from_json,
    is_finite,
    rows_of,
    to_json,
)

_FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")


@dataclass(slots=True)
class Invocation:
    """Checked inputs. `named`: outputs have names; `by_record`: such are told as one record per row, as of a frame;
    `classes` as of Model."""

    inputs: dict[str, Array]
    rows: int
    by_record: bool
    named: bool
    classes: Mapping[str, Sequence[str]]
    params: bytes = b""


class Model(Protocol):
    """What must be known of a model to ask it."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors or columns that it takes."""

    @property
    def named_outputs(self) -> bool:
        """Whether its outputs have names."""

    @property
    def frames(self) -> bool | None:
        """Whether MLflow gives it frames, by its signature; None: what it gets is what was sent."""

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """The names of an output's columns, by the output."""

    @property
    def params(self) -> Params:
        """What it takes beside its inputs."""

    @property
    def optional(self) -> frozenset[str]:
        """Columns that may be missing, or lack values."""


def decode(body: bytes, model: Model) -> Invocation:
    """Parse and check a JSON body of `/invocations`.

    Raises:
        BadRequest: with the field that is wrong.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    given = [name for name in _FORMATS if name in document]
    if len(given) != 1:
        raise BadRequest(f"the body must have exactly one of {', '.join(_FORMATS)}; it has {given or 'none'}")
    told = model.params.canonical(document.get("params"))
    form = given[0]
    columns, matrix = _READERS[form](document[form])
    arrays = bind(columns, matrix, model, form)
    by_record = form.startswith("dataframe") if model.frames is None else model.frames
    return Invocation(arrays, rows_of(arrays, model.inputs), by_record, model.named_outputs, model.classes, told)


def decode_csv(body: bytes, model: Model) -> Invocation:
    """Parse and check a CSV body of `/invocations`; arguments and errors as for `decode`."""
    names, rows = csv_frame.read(body)
    arrays = bind_csv(names, rows, model)
    return Invocation(
        arrays, rows_of(arrays, model.inputs), model.frames is not False, model.named_outputs, model.classes
    )


def bind_csv(names: list[str], rows: csv_frame.Rows, model: Model, first: int = 1) -> dict[str, Array]:
    """The model's inputs from the cells of a CSV, whose first row has this number.

    Raises:
        BadRequest: with the column or row that is wrong.
    """
    kinds = {spec.name: spec.datatype for spec in model.inputs}
    if kinds.keys() <= set(names) or not is_matrix(model.inputs):
        columns = {
            name: csv_frame.typed(
                [row[index] for row in rows], kinds.get(name, "BYTES"), f"csv.{name}", name in model.optional
            )
            for index, name in enumerate(names)
        }
        return bind(columns, None, model, "csv")
    kind = model.inputs[0].datatype
    matrix = [csv_frame.typed(row, kind, f"csv: row {number}") for number, row in enumerate(rows, start=first)]
    return bind(None, matrix, model, "csv")


def encode(invocation: Invocation, outputs: Mapping[str, Array]) -> bytes:
    """The answer: a list for an unnamed output; for named ones an object of lists, or records for a frame."""
    return orjson.dumps({"predictions": _predictions(invocation, outputs)}, option=orjson.OPT_SERIALIZE_NUMPY)


def _predictions(invocation: Invocation, outputs: Mapping[str, Array]) -> Any:
    own_names = isinstance(outputs, Named)
    if len(outputs) == 1 and not (own_names or invocation.named):
        return as_lists(next(iter(outputs.values())))
    by_record = isinstance(outputs, Records) if own_names else invocation.by_record
    columns = {name: _flat(array) for name, array in outputs.items()} if by_record else outputs
    lists = {name: as_lists(array) for name, array in columns.items()}
    if invocation.classes:
        lists |= {name: _maps(outputs[name], classes) for name, classes in invocation.classes.items()}
    if not by_record or not all(array.ndim for array in outputs.values()):
        return lists
    cells = [value if isinstance(value, list) else value.tolist() for value in lists.values()]
    return [dict(zip(lists, row, strict=True)) for row in zip(*cells, strict=True)]


def _flat(array: Array) -> Array:
    """A column; of a matrix that has no other its only one, as mlflow.onnx makes of it."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _maps(array: Array, classes: Sequence[str]) -> list[dict[str, Any]]:
    return [dict(zip(classes, row, strict=True)) for row in as_lists(array)]


def _split(value: object) -> tuple[dict[str, Any] | None, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise BadRequest("dataframe_split must be an object with columns and data")
    data, names = value["data"], value.get("columns")
    if names is None:
        return None, data
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise BadRequest("dataframe_split.columns must be a list of distinct names")
    if not all(isinstance(row, list) and len(row) == len(names) for row in data):
        raise BadRequest(f"dataframe_split.data must be rows of {len(names)} values, as many as columns")
    return {str(name): [row[index] for row in data] for index, name in enumerate(names)}, data


def _records(value: object) -> tuple[dict[str, Any] | None, Any]:
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise BadRequest("dataframe_records must be a list of at least one object")
    names = list(value[0])
    if not all(row.keys() == value[0].keys() for row in value):
        raise BadRequest("dataframe_records: all records need the same fields")
    return {name: [row[name] for row in value] for name in names}, [list(row.values()) for row in value]


def _instances(value: object) -> tuple[dict[str, Any] | None, Any]:
    if not isinstance(value, list) or not value:
        raise BadRequest("instances must be a list of at least one instance")
    return _rows(value, "instances")


def _inputs(value: object) -> tuple[dict[str, Any] | None, Any]:
    if isinstance(value, dict):
        return {name: item if isinstance(item, list) else [item] for name, item in value.items()}, None
    if isinstance(value, list) and value:
        return _rows(value, "inputs")
    raise BadRequest("inputs must be an object of lists, or a list")


def _rows(value: list[Any], form: str) -> tuple[dict[str, Any] | None, Any]:
    if not all(isinstance(row, dict) for row in value):
        return None, value
    if not all(row.keys() == value[0].keys() for row in value):
        raise BadRequest(f"{form}: all rows need the same fields")
    return {name: [row[name] for row in value] for name in value[0]}, None


_READERS = {"dataframe_split": _split, "dataframe_records": _records, "instances": _instances, "inputs": _inputs}


def is_matrix(specs: Sequence[TensorSpec]) -> bool:
    """Whether the model takes one matrix: the columns of a frame are then its columns, in order."""
    return len(specs) == 1 and len(specs[0].shape) > 1


def bind(columns: Mapping[str, Any] | None, matrix: Any, model: Model, form: str) -> dict[str, Array]:
    """The model's inputs from columns by name, or from rows without names; lists or arrays. `form` is for errors.

    Raises:
        BadRequest: they do not fit the model's inputs.
    """
    specs, wanted = model.inputs, [spec.name for spec in model.inputs]
    if columns and set(columns) >= set(wanted) - model.optional:
        rows = len(next(iter(columns.values())))
        return {
            spec.name: _column(columns.get(spec.name, [None] * rows), spec, f"{form}.{spec.name}", model.optional)
            for spec in specs
        }
    if matrix is not None and (is_matrix(specs) or (columns is None and len(specs) == 1)):
        return {wanted[0]: _checked(matrix, specs[0], form)}
    if len(specs) == 1 and columns is not None and len(columns) == 1 and "input" in columns:
        return {wanted[0]: _checked(columns["input"], specs[0], f"{form}.input")}
    if columns is None and matrix is not None and all(len(spec.shape) == 1 for spec in specs):
        return _by_position(matrix, specs, form)
    names = sorted(columns) if columns is not None else "unnamed"
    raise BadRequest(f"{form}: columns are {names}; the model's inputs are {sorted(wanted)}")


def _by_position(matrix: Any, specs: Sequence[TensorSpec], form: str) -> dict[str, Array]:
    if not all(isinstance(row, list) and len(row) == len(specs) for row in matrix):
        raise BadRequest(f"{form}: rows must have {len(specs)} values, one for each input of the model")
    return {
        spec.name: _checked([row[index] for row in matrix], spec, f"{form}.{spec.name}")
        for index, spec in enumerate(specs)
    }


def _column(data: Any, spec: TensorSpec, where: str, optional: frozenset[str]) -> Array:
    """A column; strings that are missing where they may be are None, as in a frame."""
    if spec.datatype != "BYTES" or spec.name not in optional or not isinstance(data, list) or None not in data:
        return _checked(data, spec, where)
    array = np.full(len(data), None, object)
    if known := [item for item in data if item is not None]:
        array[[item is not None for item in data]] = _checked(known, spec, where)
    return array


def _checked(data: Any, spec: TensorSpec, where: str) -> Array:
    try:
        array = from_json(data, spec.datatype, where)
    except BadRequest:
        if not isinstance(data, list | np.ndarray):
            raise
        array = from_json(_as_in_a_frame(data, spec, where), spec.datatype, where)
    if array.ndim == 2 and array.shape[1] == 1 and len(spec.shape) == 1:
        array = array.reshape(-1)
    check_shape(array, spec, where)
    return array


def _as_in_a_frame(data: list[Any] | Array, spec: TensorSpec, where: str) -> Any:
    """What a frame says otherwise than JSON: floats that are missing are NaN, integers beside them are written 1.0."""
    items = np.array(data, dtype=object)
    flat, kind = items.reshape(-1), DTYPES[spec.datatype].kind
    missing = [item is None for item in flat]
    if any(missing) and kind != "f":
        raise BadRequest(f"{where}: a value is missing; this column of {spec.datatype} may not lack values")
    flat[missing] = math.nan
    if kind in "iu":
        flat[:] = [int(item) if isinstance(item, float) and item.is_integer() else item for item in flat]
    return items.tolist()


def as_lists(array: Array) -> Any:
    """Something orjson can write, nested as the array is."""
    if array.ndim == 0:
        return as_lists(array.reshape(1))[0]
    plain = array.dtype.kind in "fiub" and is_finite(array)
    if plain:
        return array if array.flags.c_contiguous else array.copy(order="C")
    flat = to_json(array) if array.dtype.kind == "f" else [_as_value(item) for item in array.ravel().tolist()]
    return flat if array.ndim <= 1 else _shaped(list(flat), array.shape)


def _as_value(item: Any) -> Any:
    return base64.encodebytes(item).decode() if isinstance(item, bytes) else item


def _shaped(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    for size in reversed(shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat
