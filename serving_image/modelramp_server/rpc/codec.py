"""ModelInfer's messages, and the V2 REST document with the binary tensor extension that says the same.

A request becomes that document beside its raw tensors, so that it is checked by what checks REST's, with no JSON. Only
for the candidate, which is asked by REST, is the document written out; its numbers stay bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from modelramp_server.batching.model_thread import LoadedModel
from modelramp_server.dialects import ByBytes
from modelramp_server.exchange import HEADER_LENGTH, PROTOBUF, Answer, InferenceRequest
from modelramp_server.protocol import v2, v2_client
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.tensors import (
    DTYPES,
    Array,
    TensorSpec,
    datatype_of,
    from_bytes,
    narrow,
    to_bytes,
)
from modelramp_server.rpc import inference_pb2 as pb

# The field of InferTensorContents, and the dtype of its values, for each datatype that has one.
_CONTENTS: dict[str, tuple[str, str]] = {
    "BOOL": ("bool_contents", "BOOL"),
    **dict.fromkeys(("INT8", "INT16", "INT32"), ("int_contents", "INT32")),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), ("uint_contents", "UINT32")),
    "INT64": ("int64_contents", "INT64"),
    "UINT64": ("uint64_contents", "UINT64"),
    "FP32": ("fp32_contents", "FP32"),
    "FP64": ("fp64_contents", "FP64"),
    "BYTES": ("bytes_contents", "BYTES"),
}
_REST_ONLY = ("binary_data", "binary_data_size", "binary_data_output")


@dataclass(frozen=True, slots=True)
class Rpc(ByBytes):
    """The dialect of requests that carry a `ModelInfer`; answers are serialized, with raw contents."""

    name: str
    version: str

    def decode(self, request: InferenceRequest, model: LoadedModel) -> v2.InferRequest:
        """See Dialect."""
        assert isinstance(request.translation, ModelInfer)
        return request.translation.check(model.inputs, model.outputs)

    def encode(self, decoded: v2.InferRequest, outputs: Mapping[str, Array]) -> Answer:
        """See Dialect."""
        answer = pb.ModelInferResponse(model_name=self.name, model_version=self.version, id=decoded.id or "")
        for output in outputs if decoded.outputs is None else decoded.outputs:
            array = outputs[output]
            answer.outputs.add(name=output, datatype=datatype_of(array), shape=array.shape)
            answer.raw_output_contents.append(to_bytes(array))
        return _serialized(answer, [])


class ModelInfer:
    """One request; see exchange.Translation."""

    def __init__(self, message: pb.ModelInferRequest) -> None:
        """Raises BadRequest: contents that are missing, twice, or of another type than the datatype."""
        self._model = message.model_name
        self._tensors = _raw_contents(message)
        self._document = _document(message, self._tensors)

    def check(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> v2.InferRequest:
        """The arrays, if the model takes them; raises BadRequest."""
        tail = self._tensors[0] if len(self._tensors) == 1 else b"".join(self._tensors)
        return v2.check(self._document, memoryview(tail), inputs, outputs)

    def to_rest(self, request: InferenceRequest) -> InferenceRequest:
        """See Translation."""
        header = orjson.dumps(self._document)
        headers = [
            *request.headers,
            (b"content-type", b"application/octet-stream"),
            (HEADER_LENGTH, str(len(header)).encode()),
        ]
        body = b"".join([header, *self._tensors])
        path = f"/v2/models/{quote(self._model, safe='')}/infer"
        return replace(
            request, route="infer", path=path, headers=headers, body=body, header_length=len(header), translation=None
        )

    def from_rest(self, answer: Answer) -> Answer:
        """See Translation."""
        if not 200 <= answer.status < 300:
            return answer
        length = dict(answer.headers).get(HEADER_LENGTH)
        try:
            message = _response(answer.body, len(answer.body) if length is None else int(length))
        except (KeyError, TypeError, AttributeError, BadRequest) as error:
            raise ValueError(f"no V2 answer: {error}") from None
        kept = [header for header in answer.headers if header[0] not in (b"content-type", HEADER_LENGTH)]
        return _serialized(message, kept)


def outputs_of(body: bytes) -> dict[str, Array]:
    """The outputs of a serialized answer, as `Rpc` writes them."""
    message = pb.ModelInferResponse.FromString(body)
    pairs = zip(message.outputs, message.raw_output_contents, strict=True)
    return {
        output.name: from_bytes(memoryview(raw), output.datatype, output.name).reshape(tuple(output.shape))
        for output, raw in pairs
    }


def _serialized(message: pb.ModelInferResponse, headers: list[tuple[bytes, bytes]]) -> Answer:
    return Answer(200, message.SerializeToString(), [(b"content-type", PROTOBUF), *headers])


def _document(message: pb.ModelInferRequest, tensors: Sequence[bytes]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {**_parameters(tensor.parameters), "binary_data_size": len(raw)},
            }
            for tensor, raw in zip(message.inputs, tensors, strict=True)
        ],
        "parameters": {**_parameters(message.parameters), "binary_data_output": True},
    }
    if message.id:
        document["id"] = message.id
    if message.outputs:
        document["outputs"] = [
            {"name": output.name, "parameters": _parameters(output.parameters)} for output in message.outputs
        ]
    return document


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in given.items())
    return {name: getattr(value, kind) if kind else None for name, value, kind in chosen if name not in _REST_ONLY}


def _raw_contents(message: pb.ModelInferRequest) -> list[bytes]:
    raw = list(message.raw_input_contents)
    if not raw:
        return [_typed_contents(tensor, f"inputs[{at}] ({tensor.name})") for at, tensor in enumerate(message.inputs)]
    if len(raw) != len(message.inputs):
        raise BadRequest(f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs; send one each")
    for at, tensor in enumerate(message.inputs):
        if tensor.HasField("contents"):
            raise BadRequest(f"inputs[{at}] ({tensor.name}): has both contents and raw_input_contents")
    return raw


def _typed_contents(tensor: pb.ModelInferRequest.InferInputTensor, where: str) -> bytes:
    if tensor.datatype not in DTYPES or any(name.startswith("shared_memory") for name in tensor.parameters):
        return b""  # refused when the document is checked
    if tensor.datatype not in _CONTENTS:
        raise BadRequest(f"{where}: contents can't hold {tensor.datatype}; send raw_input_contents")
    given = [field.name for field, _ in tensor.contents.ListFields()]
    name, held = _CONTENTS[tensor.datatype]
    if not given:
        raise BadRequest(f"{where}: contents is empty; send {name} or raw_input_contents")
    if given != [name]:
        raise BadRequest(f"{where}: contents has {', '.join(given)}; {tensor.datatype} goes into {name}")
    values = np.array(getattr(tensor.contents, name), dtype=DTYPES[held])
    return to_bytes(narrow(values, DTYPES[tensor.datatype], where))


def _response(body: bytes, header_length: int) -> pb.ModelInferResponse:
    document = orjson.loads(body[:header_length])
    message = pb.ModelInferResponse(
        model_name=document.get("model_name", ""),
        model_version=document.get("model_version", ""),
        id=document.get("id", ""),
    )
    for entry, array in v2_client.outputs(document["outputs"], memoryview(body)[header_length:]):
        message.outputs.add(name=entry["name"], datatype=entry["datatype"], shape=entry["shape"])
        message.raw_output_contents.append(to_bytes(array))
    return message
