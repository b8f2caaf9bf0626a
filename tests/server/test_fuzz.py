"""Whatever bytes come, a decoder gives arrays that fit the model, or a ServingError; nothing else leaves it."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelramp_server.protocol import invocations, v2
from modelramp_server.protocol.compression import accepted, encoding_of, inflate
from modelramp_server.protocol.errors import ServingError
from modelramp_server.protocol.params import Params, read
from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MATRIX = (TensorSpec("x", "FP32", (-1, 3)),)
OUTPUTS = (TensorSpec("y", "FP32", (-1,)),)
COLUMNS = tuple(TensorSpec(datatype.lower(), datatype, (-1,)) for datatype in ("FP64", "INT64", "BYTES", "BOOL"))
UNSIGNED = (TensorSpec("u", "UINT64", (-1,)),)
MODELS = st.sampled_from([MATRIX, COLUMNS, UNSIGNED])
PARAMS = Params(read([{"name": "t", "type": "double", "default": 1.0, "shape": None}]), used=True)


@dataclass(frozen=True)
class Model:
    """What /invocations knows of a model; two of its columns may lack values."""

    inputs: tuple[TensorSpec, ...]
    named_outputs: bool = True
    params: Params = PARAMS
    optional: frozenset[str] = frozenset({"fp64", "int64"})
    frames: bool | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)


LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from([0, 1, -1, 2**63, 2**64, 1.0, 1e300, "x", "u", "input", "fp64", "FP32", "UINT64", "BYTES", "NaN"])
)  # fmt: skip
KEYS = st.sampled_from(
    ["inputs", "outputs", "instances", "dataframe_split", "dataframe_records", "params", "columns", "data", "name",
     "shape", "datatype", "parameters", "binary_data_size", "binary_data_output", "binary_data", "id", "t", "x", "u"]
) | st.text(max_size=3)  # fmt: skip
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def dumped(document: Any) -> bytes:
    """As JSON; NaN and huge integers as Python writes them, which is no JSON."""
    return json.dumps(document).encode()


DROPPED = object()
CHANGES = st.lists(st.tuples(st.integers(0, 100), st.just(DROPPED) | ANY), max_size=3)


def changed(document: Any, changes: list[tuple[int, Any]]) -> Any:
    """A copy in which some parts are gone, or something else."""
    whole = {"": copy.deepcopy(document)}
    for number, value in changes:
        places = list(parts(whole))
        holder, key = places[number % len(places)]
        if value is not DROPPED:
            holder[key] = value
        elif holder is not whole:
            del holder[key]
    return whole[""]


def parts(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document, as a container and a key of it."""
    for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
        yield holder, key
        if isinstance(value, dict | list):
            yield from parts(value)


def tensor(spec: TensorSpec, **more: Any) -> dict[str, Any]:
    shape = [abs(size) for size in spec.shape]
    value = {"f": 0.5, "i": 1, "u": 1, "b": True, "O": "s"}[DTYPES[spec.datatype].kind]
    flat: Any = [value] * (shape[-1] if len(shape) > 1 else 1)
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": flat, **more}


GOOD_V2 = [
    {"id": "1", "inputs": [tensor(spec) for spec in specs], "outputs": [{"name": "y"}], "parameters": {}}
    for specs in (MATRIX, COLUMNS, UNSIGNED)
]
ROWS: list[dict[str, Any]] = [{"fp64": 0.5, "int64": 1, "bytes": "s", "bool": True}] * 2
GOOD_MLFLOW: list[dict[str, Any]] = [
    {"inputs": [[1.0, 2.0, 3.0]], "params": {"t": 2.0}},
    {"inputs": {"fp64": [0.5], "int64": [1], "bytes": ["s"], "bool": [True]}},
    {"instances": ROWS},
    {"dataframe_records": ROWS},
    {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1, 2, 3]]}},
]


def fits(arrays: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> None:
    assert set(arrays) == {spec.name for spec in specs}
    for spec in specs:
        array = arrays[spec.name]
        assert array.dtype == DTYPES[spec.datatype] and array.ndim == len(spec.shape) and array.size


def v2_decoded(body: bytes, length: int | None, specs: tuple[TensorSpec, ...]) -> None:
    try:
        decoded = v2.decode(body, length, specs, OUTPUTS)
    except ServingError as error:
        assert 400 <= error.status < 500 and error.message
        return
    fits(decoded.inputs, specs)
    v2.encode(decoded, {"y": next(iter(decoded.inputs.values()))}, "m", "1")


def mlflow_decoded(body: bytes, specs: tuple[TensorSpec, ...], csv: bool = False) -> None:
    try:
        decoded = invocations.decode_csv(body, Model(specs)) if csv else invocations.decode(body, Model(specs))
    except ServingError as error:
        assert 400 <= error.status < 500 and error.message
        return
    fits(decoded.inputs, specs)
    assert orjson.loads(decoded.params or b"{}") in ({}, {"t": None}) or decoded.params.startswith(b'{"t":')
    orjson.loads(invocations.encode(decoded, decoded.inputs))


@FUZZ
@given(st.binary(max_size=200), st.none() | st.integers(-5, 250), MODELS)
def test_bytes(body: bytes, length: int | None, specs: tuple[TensorSpec, ...]) -> None:
    v2_decoded(body, length, specs)
    mlflow_decoded(body, specs)
    mlflow_decoded(body, specs, csv=True)


@FUZZ
@given(st.sampled_from(GOOD_V2), CHANGES, MODELS)
def test_nearly_v2(document: Any, changes: list[tuple[int, Any]], specs: tuple[TensorSpec, ...]) -> None:
    v2_decoded(dumped(changed(document, changes)), None, specs)


@FUZZ
@given(
    st.sampled_from([MATRIX, COLUMNS, UNSIGNED]),
    st.lists(st.integers(-1, 40) | st.none(), min_size=4, max_size=4),
    st.binary(max_size=60),
    st.integers(-2, 2),
)
def test_nearly_binary_v2(specs: tuple[TensorSpec, ...], sizes: list[int | None], tail: bytes, off: int) -> None:
    tensors = [tensor(spec) for spec in specs]
    for each, size in zip(tensors, sizes, strict=False):
        if size is not None:
            del each["data"]
            each["parameters"] = {"binary_data_size": size}
    header = dumped({"inputs": tensors, "parameters": {"binary_data_output": True}})
    v2_decoded(header + tail, max(0, len(header) + off), specs)
    v2_decoded(header + tail, len(header), specs)


@FUZZ
@given(st.sampled_from(GOOD_MLFLOW), CHANGES, MODELS)
def test_nearly_mlflow(document: Any, changes: list[tuple[int, Any]], specs: tuple[TensorSpec, ...]) -> None:
    mlflow_decoded(dumped(changed(document, changes)), specs)


CELLS = st.sampled_from(
    ["1", "0.5", "true", "s", "", '"', '""', "[1", "2]", '"1,2"', "nan", "1e999", "\x00", "é", " 1 "]
)


@FUZZ
@given(
    st.permutations(["fp64", "int64", "bytes", "bool"]),
    st.lists(st.lists(CELLS, min_size=3, max_size=5), max_size=4),
    st.sampled_from(["\n", "\r\n", "\r"]),
    MODELS,
)
def test_nearly_csv(names: list[str], rows: list[list[str]], end: str, specs: tuple[TensorSpec, ...]) -> None:
    mlflow_decoded(end.join(",".join(row) for row in [names, *rows]).encode(), specs, csv=True)


@FUZZ
@given(st.binary(max_size=100), st.sampled_from([b"gzip", b"x-gzip", b"deflate"]), st.integers(0, 50))
def test_compressed_bytes(body: bytes, coding: bytes, limit: int) -> None:
    for packed in (body, b"\x1f\x8b\x08\x00" + body, b"\x78\x9c" + body):
        try:
            assert len(inflate(packed, coding, limit)) <= limit
        except ServingError as error:
            assert error.status in (400, 413)
    accepted(body)
    try:
        assert encoding_of(body) in (b"", b"gzip", b"x-gzip", b"deflate")
    except ServingError as error:
        assert error.status == 415
