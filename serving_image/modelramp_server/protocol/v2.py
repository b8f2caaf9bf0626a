"""Open Inference Protocol V2 over REST: infer requests and answers, with the binary tensor extension.

Specification: https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data. A request is
checked whole against the model's inputs before it is queued, so that nothing malformed reaches a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from modelramp_server.protocol import large_json
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.tensors import (
    DTYPES,
    Array,
    TensorSpec,
    check_shape,
    datatype_of,
    from_bytes,
    from_json,
    parse_shape,
    reshape,
    rows_of,
    to_bytes,
    to_json,
)

# The name to which a model with one input also answers, so that a client need not know a graph's own names.
ONLY_INPUT = "input"
_NOTHING = memoryview(b"")


@dataclass(slots=True)
class InferRequest:
    """A checked request: every input of the model by name, with the dtype and rank that the model wants."""

    inputs: dict[str, Array]
    rows: int
    id: str | None = None
    outputs: list[str] | None = None
    binary: frozenset[str] = frozenset()
    all_binary: bool = False
    params: bytes = b""


def decode(
    body: bytes | memoryview, header_length: int | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Parse and check the body of `/v2/models/{m}/infer`.

    Args:
        body: JSON, or JSON of `header_length` bytes followed by raw tensors.
        header_length: value of `Inference-Header-Content-Length`.
        inputs: what the model declares.
        outputs: likewise.

    Raises:
        BadRequest: with the field that is wrong.
    """
    document = _document(bytes(body) if header_length is None else _header(body, header_length))
    tail = _NOTHING if header_length is None else memoryview(body)[header_length:]
    return check(document, tail, inputs, outputs)


def check(
    document: dict[str, Any], tail: memoryview, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Check a request that is parsed; `tail` holds its raw tensors, one after the other.

    Raises:
        BadRequest: with the field that is wrong.
    """
    tensors = document.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        raise BadRequest("inputs must be a list of at least one tensor")
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadRequest("id must be a string")
    arrays = _inputs(tensors, tail, inputs)
    request = InferRequest(arrays, rows_of(arrays, inputs), identity)
    if "parameters" in document:
        told = _stateless(_parameters(document, "request"))
        request.all_binary = _flag(told, "binary_data_output", "request") is True
    if document.get("outputs") is not None:
        _requested_outputs(document["outputs"], [spec.name for spec in outputs], request)
    return request


def encode(request: InferRequest, outputs: Mapping[str, Array], name: str, version: str) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON part where raw tensors follow."""
    names = outputs.keys() if request.outputs is None else request.outputs
    entries: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for output in names:
        array = outputs[output]
        entry: dict[str, Any] = {"name": output, "datatype": datatype_of(array), "shape": array.shape}
        if request.all_binary or output in request.binary:
            tails.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            entry["data"] = array.ravel() if array.dtype.kind == "f" else to_json(array)
        entries.append(entry)
    document: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": entries}
    if request.id is not None:
        document["id"] = request.id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in header:  # as numbers that JSON lacks are written: to look for them before takes longer
        for entry in entries:
            if "data" in entry:
                entry["data"] = to_json(outputs[entry["name"]])
        header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([header, *tails]), len(header)) if tails else (header, None)


def _header(body: bytes | memoryview, length: int) -> bytes:
    if not 0 <= length <= len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {length}, the body has {len(body)} bytes")
    return bytes(body[:length])


def _document(body: bytes) -> dict[str, Any]:
    if len(body) >= large_json.LARGE and (large := large_json.document(body)) is not None:
        return large
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return document


def _inputs(tensors: list[Any], tail: memoryview, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    wanted = {spec.name: spec for spec in specs}
    arrays: dict[str, Array] = {}
    position = 0
    for index, tensor in enumerate(tensors):
        if not isinstance(tensor, dict):
            raise BadRequest(f"inputs[{index}] must be an object")
        name = tensor.get("name")
        if not isinstance(name, str):
            raise BadRequest(f"inputs[{index}].name must be a string")
        spec = wanted.get(name) or (specs[0] if len(specs) == 1 and name == ONLY_INPUT else None)
        if spec is None:
            raise BadRequest(f"inputs[{index}].name is {name!r}; the model's inputs are {sorted(wanted)}")
        if spec.name in arrays:
            raise BadRequest(f"inputs[{index}].name: {name!r} is given twice")
        where = f"inputs[{index}] ({name})"
        size = _binary_size(tensor, where) if "parameters" in tensor else None
        arrays[spec.name] = _tensor(tensor, spec, _slice(tail, position, size, where), where)
        position += size or 0
    if len(arrays) != len(wanted):
        raise BadRequest(f"inputs: {sorted(wanted.keys() - arrays.keys())} missing")
    if position != len(tail):
        raise BadRequest(f"the body has {len(tail) - position} bytes that belong to no tensor")
    return arrays


def _tensor(tensor: dict[str, Any], spec: TensorSpec, raw: memoryview | None, where: str) -> Array:
    datatype: Any = tensor.get("datatype")
    if datatype != spec.datatype:
        _check_datatype(datatype, spec, where)
    shape = parse_shape(tensor.get("shape"), where)
    if raw is None:
        array = reshape(from_json(tensor.get("data"), datatype, where), shape, where)
    elif "data" in tensor:
        raise BadRequest(f"{where}: has both data and binary_data_size")
    else:
        array = reshape(from_bytes(raw, datatype, where), shape, where)
    check_shape(array, spec, where)
    return array if datatype == spec.datatype else array.astype(DTYPES[spec.datatype])


def _check_datatype(datatype: object, spec: TensorSpec, where: str) -> None:
    """Refuse one that is not the model's, and does not widen to it."""
    if datatype == "BF16":
        raise BadRequest(f"{where}: datatype BF16 is not served; send FP32")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise BadRequest(f"{where}: datatype is {datatype!r}; it must be one of {', '.join(DTYPES)}")
    if not _widens(datatype, spec.datatype):
        raise BadRequest(f"{where}: datatype is {datatype}, the model wants {spec.datatype}")


def _widens(given: str, wanted: str) -> bool:
    if given == wanted:
        return True
    if "BYTES" in (given, wanted) or "BOOL" in (given, wanted):
        return False
    return DTYPES[given].kind == DTYPES[wanted].kind and DTYPES[given].itemsize <= DTYPES[wanted].itemsize


def _parameters(holder: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{where}: parameters must be an object")
    for key in parameters:
        if key.startswith("shared_memory"):
            raise BadRequest(f"{where}: shared memory is not served; send the data")
    return parameters


def _stateless(parameters: dict[str, Any]) -> dict[str, Any]:
    if parameters.get("sequence_id"):
        raise BadRequest("parameters.sequence_id: sequences are not served; the model keeps no state between requests")
    return parameters


def _flag(parameters: dict[str, Any], name: str, where: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{where}: parameters.{name} must be true or false")
    return value


def _binary_size(tensor: dict[str, Any], where: str) -> int | None:
    size = _parameters(tensor, where).get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise BadRequest(f"{where}: binary_data_size must be a non-negative integer")
    return size


def _slice(tail: memoryview, position: int, size: int | None, where: str) -> memoryview | None:
    if size is None:
        return None
    if position + size > len(tail):
        raise BadRequest(f"{where}: binary_data_size is {size}, {len(tail) - position} bytes are left in the body")
    return tail[position : position + size]


def _requested_outputs(requested: object, known: Sequence[str], request: InferRequest) -> None:
    if not isinstance(requested, list):
        raise BadRequest("outputs must be a list")
    names: list[str] = []
    binary: set[str] = set()
    for index, output in enumerate(requested):
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise BadRequest(f"outputs[{index}] must be an object with a name")
        name = output["name"]
        if name not in known:
            raise BadRequest(f"outputs[{index}].name is {name!r}; the model's outputs are {sorted(known)}")
        if name in names:
            raise BadRequest(f"outputs[{index}].name: {name!r} is given twice")
        parameters = _parameters(output, f"outputs[{index}]")
        if "classification" in parameters:
            raise BadRequest(f"outputs[{index}]: the classification extension is not served; ask for the output itself")
        names.append(name)
        flag = _flag(parameters, "binary_data", f"outputs[{index}]")
        if flag or (flag is None and request.all_binary):
            binary.add(name)
    if names:
        request.outputs, request.binary, request.all_binary = names, frozenset(binary), False
