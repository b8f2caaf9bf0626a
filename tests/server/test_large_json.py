"""Bodies with many numbers: read in another way, to the same arrays, with the same refusals."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelramp_server.protocol import large_json, v2
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.tensors import TensorSpec

SPECS = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("n", "INT64", (-1,)), TensorSpec("u", "UINT64", (-1,)))
NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65), st.floats(allow_nan=False), st.booleans(), st.none(), st.just("1"), st.just([1])
)
FEW = st.lists(st.integers(0, 9) | st.floats(-9, 9), min_size=1, max_size=6)


def tensor(name: str, datatype: str, shape: Any, data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def read(body: bytes, specs: tuple[TensorSpec, ...]) -> Any:
    """What a body says, or why it says nothing."""
    try:
        decoded = v2.decode(body, None, specs, [])
    except BadRequest as error:
        return error.message
    arrays = {name: (array.dtype.str, array.tolist()) for name, array in decoded.inputs.items()}
    return arrays, decoded.rows, decoded.id, decoded.outputs, decoded.all_binary


def both_ways(document: Any, specs: tuple[TensorSpec, ...], monkeypatch: pytest.MonkeyPatch) -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    monkeypatch.setattr(large_json, "LARGE", 0)
    one = read(body, specs)
    monkeypatch.setattr(large_json, "LARGE", 1 << 40)
    assert one == read(body, specs)
    return one


@given(st.sampled_from(["x", "n", "u"]), FEW | st.lists(NUMBERS, max_size=4), st.integers(0, 4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_same_by_either_way(name: str, data: list[Any], rows: int, told: bool) -> None:
    (spec,) = (spec for spec in SPECS if spec.name == name)
    shape = [rows, *spec.shape[1:]]
    document: dict[str, Any] = {"inputs": [tensor(name, spec.datatype, shape, data)]}
    if told:
        document |= {"id": "[7]", "parameters": {"binary_data_output": True}, "outputs": [{"name": "y"}]}
    with pytest.MonkeyPatch.context() as patch:
        both_ways(document, (spec,), patch)


@pytest.mark.parametrize(
    "data",
    [
        [1, [2], 3],
        [[1, 2, 3]],
        [[1], [2], [3]],
        [True, False, True],
        [None, 1, 2],
        ["1", 2, 3],
        {"a": [1]},
        7,
        [1, 2],
        [],
    ],
    ids=str,
)
def test_what_is_no_flat_list_of_numbers(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"inputs": [tensor("x", "FP32", [1, 3], data)]}
    found = both_ways(document, SPECS[:1], monkeypatch)
    assert isinstance(found, str) != (data == [[1, 2, 3]])


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b'{"inputs": [NaN]}', b"[1, 2]", b'{"inputs": 3}', b'{"inputs": {"name": "x"}}', b'{"x": 1}', b"\xff",
     b'{"inputs": [{"data": [1e999]}]}'],
    ids=str,
)  # fmt: skip
def test_what_is_no_request(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(both_ways(body, SPECS[:1], monkeypatch), str)


def test_many_numbers_become_an_array_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).random((2000, 3)).astype(np.float32)
    body = json.dumps({"inputs": [tensor("x", "FP32", [2000, 3], array.ravel().tolist())]}).encode()
    assert len(body) > large_json.LARGE
    found = large_json.document(body)
    assert found is not None and isinstance(found["inputs"][0]["data"], np.ndarray)
    assert np.array_equal(v2.decode(body, None, SPECS[:1], []).inputs["x"], array)
