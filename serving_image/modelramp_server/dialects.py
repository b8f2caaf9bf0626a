"""The protocols that the server speaks, as a table from route to dialect. A further one is one class and one entry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from modelramp_server.batching.model_thread import LoadedModel
from modelramp_server.exchange import HEADER_LENGTH, JSON, Answer, Header, InferenceRequest, check_json
from modelramp_server.images.predict import Predict
from modelramp_server.protocol import invocations, v2
from modelramp_server.protocol.tensors import Array

_RAW = 16  # bytes of raw numbers that are as little work as one of JSON
_BINARY: Header = (b"content-type", b"application/octet-stream")


class Decoded(Protocol):
    """What the queue needs of a request; a dialect keeps beside it what its answer depends on."""

    inputs: dict[str, Array]
    rows: int

    @property
    def params(self) -> bytes:
        """What the model is told beside its inputs: canonical JSON of an object, or b"". Requests with other params
        share no forward."""


Form = TypeVar("Form", bound=Decoded)


class Dialect(Protocol[Form]):
    """One protocol. Large bodies are decoded and encoded in another thread: no state, no event loop."""

    def decode(self, request: InferenceRequest, model: LoadedModel) -> Form:
        """Parse a request and check it whole against the model's inputs.

        Raises:
            ServingError: 4xx, with the field that is wrong.
        """

    def encode(self, decoded: Form, outputs: Mapping[str, Array]) -> Answer:
        """The answer to a decoded request.

        Raises:
            ServingError: the outputs can't be told in the form that the client wants.
        """

    def decoding(self, request: InferenceRequest) -> int:
        """The work of `decode`, as bytes of JSON: how it is known whether it belongs on the event loop."""

    def encoding(self, decoded: Form, outputs: Mapping[str, Array]) -> int:
        """The work of `encode`, likewise."""


class ByBytes:
    """Dialects whose work is what there is to read and write."""

    def decoding(self, request: InferenceRequest) -> int:
        """See Dialect."""
        return len(request.body)

    def encoding(self, decoded: Any, outputs: Mapping[str, Array]) -> int:
        """See Dialect."""
        size = 0
        for array in outputs.values():
            size += array.nbytes
        return size


def dialects(name: str, version: str) -> dict[str, Dialect[Any]]:
    """Every dialect by the route of its requests (`InferenceRequest.route`)."""
    return {"infer": V2(name, version), "invocations": Mlflow(), "predict": Predict(None)}


@dataclass(frozen=True, slots=True)
class V2(ByBytes):
    """Open Inference Protocol V2 over REST, for the model of this name and version."""

    name: str
    version: str

    def decoding(self, request: InferenceRequest) -> int:
        """See Dialect. Raw numbers are used as they lie there, raw strings are not."""
        head, size = request.header_length, len(request.body)
        if head is None or b"BYTES" in bytes(request.body[:head]):
            return size
        return head + (size - head) // _RAW

    def decode(self, request: InferenceRequest, model: LoadedModel) -> v2.InferRequest:
        """See Dialect."""
        check_json(request.content_type)
        return v2.decode(request.body, request.header_length, model.inputs, model.outputs)

    def encode(self, decoded: v2.InferRequest, outputs: Mapping[str, Array]) -> Answer:
        """See Dialect."""
        body, header_length = v2.encode(decoded, outputs, self.name, self.version)
        if header_length is None:
            return Answer(200, body, [JSON])
        return Answer(200, body, [_BINARY, (HEADER_LENGTH, str(header_length).encode())])


class Mlflow(ByBytes):
    """MLflow's scoring protocol, `/invocations`."""

    def decode(self, request: InferenceRequest, model: LoadedModel) -> invocations.Invocation:
        """See Dialect."""
        if request.content_type == b"text/csv":
            return invocations.decode_csv(bytes(request.body), model)
        check_json(request.content_type)
        return invocations.decode(bytes(request.body), model)

    def encode(self, decoded: invocations.Invocation, outputs: Mapping[str, Array]) -> Answer:
        """See Dialect."""
        return Answer(200, invocations.encode(decoded, outputs), [JSON])
