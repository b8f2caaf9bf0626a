"""V2 gRPC: right answers, the protocol's pages, and a status code that fits for everything that is refused."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from modelramp_server import serve
from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.rpc import inference_pb2 as pb
from modelramp_server.rpc.codec import ModelInfer, Rpc, outputs_of
from modelramp_server.security import api_keys
from tests.server import models
from tests.server.rpc import RpcClient, RpcReply, number, settled, tensor
from tests.server.served import OWN, Served, eventually

ROWS = 3
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def server(onnx_model: Path) -> Iterator[Served]:
    running = Served(onnx_model, grpc_port=0).wait_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[RpcClient]:
    made = RpcClient(server.grpc_port)
    yield made
    made.close()


@pytest.fixture
def connect() -> Iterator[Any]:
    """Clients that are closed with the test."""
    made: list[RpcClient] = []

    def to(running: Served, **options: Any) -> RpcClient:
        made.append(RpcClient(running.grpc_port, **options))
        return made[-1]

    yield to
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def triton(server: Served) -> Iterator[InferenceServerClient]:
    made = InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def images() -> models.Array:
    return models.digits()[0][1000 : 1000 + ROWS] / 16


def digits(**changes: Any) -> pb.ModelInferRequest:
    """A request that would be answered; with changes."""
    fields = {
        "model_name": "digits",
        "inputs": [tensor("X", "FP32", [1, 64])],
        "raw_input_contents": [bytes(256)],
    }
    return pb.ModelInferRequest(**{**fields, **changes})


def typed(datatype: str = "FP32", name: str = "X", shape: Any = (1, 64), **contents: Any) -> pb.ModelInferRequest:
    """The same with contents by field."""
    return digits(inputs=[tensor(name, datatype, list(shape), **contents)], raw_input_contents=[])


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient(triton: InferenceServerClient, estimator, images, compression: str | None) -> None:
    given = InferInput("X", [ROWS, 64], "FP32")
    given.set_data_from_numpy(images.astype(np.float32))
    chosen = [InferRequestedOutput("label")]
    result = triton.infer("digits", [given], outputs=chosen, request_id="7", compression_algorithm=compression)
    assert result.as_numpy("label").tolist() == estimator.predict(images).tolist()
    assert result.as_numpy("probabilities") is None and result.get_response().id == "7"
    everything = triton.infer("digits", [given], "3", compression_algorithm=compression)
    assert np.allclose(everything.as_numpy("probabilities"), estimator.predict_proba(images), atol=1e-4)
    assert (everything.get_response().model_name, everything.get_response().model_version) == ("digits", "3")


def test_pages_for_tritonclient(triton: InferenceServerClient) -> None:
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("digits") and triton.is_model_ready("digits", "3")
    assert triton.get_server_metadata(as_json=True)["name"] == "modelramp"
    metadata = triton.get_model_metadata("digits", as_json=True)
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": ["-1", "64"]}]
    assert (metadata["platform"], metadata["versions"]) == ("onnx", ["3"])
    index = triton.get_model_repository_index(as_json=True)
    assert index == {"models": [{"name": "digits", "version": "3", "state": "READY"}]}


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("RepositoryModelLoad", "one model"),
        ("RepositoryModelUnload", "one model"),
        ("SystemSharedMemoryRegister", "shared memory"),
        ("CudaSharedMemoryStatus", "shared memory"),
        ("ModelConfig", "ModelMetadata"),
        ("ModelStatistics", "not served"),
        ("NoSuchCall", "not served"),
    ],
)
def test_calls_that_are_not_served_say_so(client: RpcClient, method: str, part: str) -> None:
    reply = client.send(b"", method)
    assert reply.code is Code.UNIMPLEMENTED
    assert reply.details.startswith(method) and part in reply.details


def test_streams_are_refused(triton: InferenceServerClient) -> None:
    told: list[InferenceServerException] = []
    heard = threading.Event()
    triton.start_stream(lambda result, error: (told.append(error), heard.set()))
    assert heard.wait(30)
    triton.stop_stream()
    assert "StatusCode.UNIMPLEMENTED" in str(told[0]) and "ModelInfer" in str(told[0])


@pytest.mark.parametrize("wide", [True, False])
def test_contents_by_field(client: RpcClient, estimator, images, wide: bool) -> None:
    values = images.ravel().tolist()
    if wide:
        request = typed(name="input", shape=[ROWS, 64], fp32_contents=values)
    else:
        raw = images.astype(np.float16).tobytes()
        request = digits(inputs=[tensor("X", "FP16", [ROWS, 64])], raw_input_contents=[raw])
    answer = client.infer(request).answer
    outputs = outputs_of(answer.SerializeToString())
    assert outputs["label"].tolist() == estimator.predict(images).tolist()
    assert outputs["probabilities"].shape == (ROWS, 10)
    assert not any(output.HasField("contents") for output in answer.outputs)


INTEGERS = {
    "INT8": ("int_contents", -5), "INT16": ("int_contents", -5), "INT32": ("int_contents", -5),
    "INT64": ("int64_contents", -(2**40)), "UINT8": ("uint_contents", 200), "UINT16": ("uint_contents", 200),
    "UINT32": ("uint_contents", 2**31), "UINT64": ("uint64_contents", 2**63), "BOOL": ("bool_contents", True),
    "FP32": ("fp32_contents", 0.5), "FP64": ("fp64_contents", 1e300), "BYTES": ("bytes_contents", "é".encode()),
}  # fmt: skip


@pytest.mark.parametrize("datatype", INTEGERS)
def test_every_datatype_comes_through(datatype: str) -> None:
    field, value = INTEGERS[datatype]
    request = pb.ModelInferRequest(inputs=[tensor("t", datatype, [2], **{field: [value, value]})], id="9")
    decoded = ModelInfer(request).check([TensorSpec("t", datatype, (-1,))], [])
    expected = value.decode() if isinstance(value, bytes) else value
    assert decoded.inputs["t"].tolist() == [expected, expected] and decoded.rows == 2
    answer = Rpc("m", "1").encode(decoded, decoded.inputs)
    assert outputs_of(answer.body)["t"].tolist() == [expected, expected]
    assert pb.ModelInferResponse.FromString(answer.body).id == "9"


def test_several_raw_inputs_keep_their_order() -> None:
    request = pb.ModelInferRequest(
        inputs=[tensor("b", "INT8", [1]), tensor("a", "INT16", [1])], raw_input_contents=[b"\x01", b"\x02\x00"]
    )
    specs = [TensorSpec("a", "INT16", (-1,)), TensorSpec("b", "INT8", (-1,))]
    decoded = ModelInfer(request).check(specs, [])
    assert {name: array.tolist() for name, array in decoded.inputs.items()} == {"a": [2], "b": [1]}


@pytest.mark.parametrize("datatype", ["FP16", "BYTES"])
def test_strings_must_be_whole_and_fp16_is_raw(datatype: str) -> None:
    request = pb.ModelInferRequest(inputs=[tensor("t", datatype, [1])], raw_input_contents=[b"\xff"])
    with pytest.raises(BadRequest, match=r"inputs\[0\] \(t\)"):
        ModelInfer(request).check([TensorSpec("t", datatype, (-1,))], [])


def parameters(**values: Any) -> dict[str, pb.InferParameter]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
    return {name: pb.InferParameter(**{kinds[type(value)]: value}) for name, value in values.items()}


def with_parameters(**values: Any) -> pb.ModelInferRequest.InferInputTensor:
    made = tensor("X", "FP32", [1, 64])
    for name, value in parameters(**values).items():
        made.parameters[name].CopyFrom(value)
    return made


def output(name: str, **values: Any) -> pb.ModelInferRequest.InferRequestedOutputTensor:
    return pb.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=parameters(**values))


X = tensor("X", "FP32", [1, 64])
HALF = [0.5] * 64
BAD: list[tuple[str, Any, Code, str]] = [
    ("no message", b"\xff\xff\xff", Code.INVALID_ARGUMENT, "inference.ModelInferRequest"),
    ("a message cut short", digits().SerializeToString()[:-1], Code.INVALID_ARGUMENT, "inference.ModelInferRequest"),
    ("nothing", b"", Code.NOT_FOUND, "model_name"),
    ("text that is no UTF-8", b"\x0a\x02\xff\xfe", Code.INVALID_ARGUMENT, "inference.ModelInferRequest"),
    ("wrong model", digits(model_name="other"), Code.NOT_FOUND, "model_name: no model 'other'"),
    ("a long wrong model", digits(model_name="o" * 100_000), Code.NOT_FOUND, "model_name"),
    ("a model with line breaks", digits(model_name="a\r\nb: c"), Code.NOT_FOUND, r"a\r\nb"),
    ("wrong version", digits(model_version="9"), Code.NOT_FOUND, "model_version: no version '9'"),
    ("no inputs", digits(inputs=[], raw_input_contents=[]), Code.INVALID_ARGUMENT, "inputs"),
    ("raw contents for nothing", digits(inputs=[]), Code.INVALID_ARGUMENT, "raw_input_contents"),
    ("fewer raw contents", digits(inputs=[X, X]), Code.INVALID_ARGUMENT, "raw_input_contents has 1 entries for 2"),
    ("more raw contents", digits(raw_input_contents=[b"", b""]), Code.INVALID_ARGUMENT, "2 entries for 1"),
    ("both contents", digits(inputs=[tensor("X", "FP32", [1, 64], fp32_contents=HALF)]), Code.INVALID_ARGUMENT, "both"),
    ("no contents", digits(raw_input_contents=[]), Code.INVALID_ARGUMENT, "fp32_contents"),
    ("contents of another type", typed(fp64_contents=HALF), Code.INVALID_ARGUMENT, "fp64_contents; FP32 goes into"),
    ("contents of two types", typed(fp32_contents=HALF, int_contents=[1]), Code.INVALID_ARGUMENT, "int_contents, fp32"),
    ("FP16 by field", typed("FP16", fp32_contents=HALF), Code.INVALID_ARGUMENT, "FP16; send raw_input_contents"),
    ("a value beyond the datatype", typed("INT8", int_contents=[300] * 64), Code.INVALID_ARGUMENT, "-128 to 127"),
    ("a negative UINT8", typed("UINT8", int_contents=[-1] * 64), Code.INVALID_ARGUMENT, "uint_contents"),
    ("fewer values", typed(fp32_contents=HALF[:-1]), Code.INVALID_ARGUMENT, "needs 64 values, data has 63"),
    ("raw bytes short", digits(raw_input_contents=[bytes(252)]), Code.INVALID_ARGUMENT, "needs 64 values"),
    ("raw bytes odd", digits(raw_input_contents=[bytes(255)]), Code.INVALID_ARGUMENT, "multiple of 4"),
    ("raw bytes too many", digits(raw_input_contents=[bytes(260)]), Code.INVALID_ARGUMENT, "needs 64 values"),
    ("no raw bytes", digits(raw_input_contents=[b""]), Code.INVALID_ARGUMENT, "data has 0"),
    ("no name", digits(inputs=[tensor("", "FP32", [1, 64])]), Code.INVALID_ARGUMENT, "inputs[0].name is ''"),
    ("wrong name", digits(inputs=[tensor("Y", "FP32", [1, 64])]), Code.INVALID_ARGUMENT, "'Y'"),
    ("an input twice", digits(inputs=[X, X], raw_input_contents=[bytes(256)] * 2), Code.INVALID_ARGUMENT, "twice"),
    ("no datatype", digits(inputs=[tensor("X", "", [1, 64])]), Code.INVALID_ARGUMENT, "datatype is ''"),
    ("no such datatype", typed("FP8", fp32_contents=HALF), Code.INVALID_ARGUMENT, "datatype is 'FP8'"),
    ("BF16", digits(inputs=[tensor("X", "BF16", [1, 64])]), Code.INVALID_ARGUMENT, "BF16"),
    ("another datatype", digits(inputs=[tensor("X", "INT32", [1, 64])]), Code.INVALID_ARGUMENT, "wants FP32"),
    ("a wider datatype", digits(inputs=[tensor("X", "FP64", [1, 32])]), Code.INVALID_ARGUMENT, "wants FP32"),
    ("no shape", digits(inputs=[tensor("X", "FP32", [])]), Code.INVALID_ARGUMENT, "shape"),
    ("negative shape", digits(inputs=[tensor("X", "FP32", [-1, 64])]), Code.INVALID_ARGUMENT, "shape"),
    ("wrong rank", digits(inputs=[tensor("X", "FP32", [64])]), Code.INVALID_ARGUMENT, "[-1, 64]"),
    ("wrong width", digits(inputs=[tensor("X", "FP32", [2, 32])]), Code.INVALID_ARGUMENT, "[-1, 64]"),
    ("a huge shape", digits(inputs=[tensor("X", "FP32", [2**62, 2**62])]), Code.INVALID_ARGUMENT, "values"),
    ("40 axes", digits(inputs=[tensor("X", "FP32", [1] * 40)]), Code.INVALID_ARGUMENT, "axes"),
    ("no rows", digits(inputs=[tensor("X", "FP32", [0, 64])], raw_input_contents=[b""]),
     Code.INVALID_ARGUMENT, "is empty"),
    ("unknown output", digits(outputs=[output("Z")]), Code.INVALID_ARGUMENT, "outputs[0].name is 'Z'"),
    ("an output twice", digits(outputs=[output("label")] * 2), Code.INVALID_ARGUMENT, "twice"),
    ("classification", digits(outputs=[output("label", classification=2)]), Code.INVALID_ARGUMENT, "classification"),
    ("shared memory in", digits(inputs=[with_parameters(shared_memory_region="r")]), Code.INVALID_ARGUMENT, "shared"),
    ("shared memory alone", digits(inputs=[with_parameters(shared_memory_region="r")], raw_input_contents=[]),
     Code.INVALID_ARGUMENT, "shared memory"),
    ("shared memory out", digits(outputs=[output("label", shared_memory_region="r")]), Code.INVALID_ARGUMENT, "shared"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "code", "part"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_request_gets_a_code_that_fits_and_names_the_field(
    client: RpcClient, request_: Any, code: Code, part: str
) -> None:
    reply = client.send(request_ if isinstance(request_, bytes) else request_.SerializeToString())
    assert reply.code is code and part in reply.details
    assert "Traceback" not in reply.details
    assert reply.metadata["x-modelramp-revision"] == OWN


def test_parameters_of_rest_mean_nothing_here(client: RpcClient) -> None:
    given = with_parameters(binary_data_size=3, priority=1)
    chosen = [output("label", binary_data=False)]
    reply = client.infer(digits(inputs=[given], outputs=chosen, parameters=parameters(binary_data_output=False)))
    assert reply.code is Code.OK and len(reply.answer.raw_output_contents) == 1


def test_every_page_refuses_what_is_no_message_and_who_is_not_here(client: RpcClient) -> None:
    for method in ("ModelReady", "ModelMetadata", "ServerReady", "RepositoryIndex"):
        assert client.send(b"\xff", method).code is Code.INVALID_ARGUMENT
    for method in ("ModelReady", "ModelMetadata"):
        reply = client.send(pb.ModelReadyRequest(name="other").SerializeToString(), method)
        assert reply.code is Code.NOT_FOUND and "'other'" in reply.details


def test_every_answer_says_who_answered_and_is_counted(start, lookup_model, connect) -> None:
    server = start(lookup_model, grpc_port=0)
    client = connect(server)
    good = client.infer(number())
    assert (good.metadata["x-modelramp-revision"], good.metadata["x-modelramp-version"]) == (OWN, "3")
    assert good.metadata["server-timing"].startswith("service;dur=")
    assert outputs_of(good.answer.SerializeToString())["y"].tolist() == [20.0]
    failed = client.infer(number(99))
    assert failed.code is Code.INTERNAL and "failed on this input" in failed.details
    assert client.infer(number(model_name="other")).code is Code.NOT_FOUND
    assert client.infer(number(), metadata=[("x-modelramp-relayed", "smoke")]).code is Code.OK
    counts = {
        code: server.metric("modelramp_requests_total", route="grpc", code=code) for code in ("200", "500", "404")
    }
    assert counts == {"200": 1, "500": 1, "404": 1}
    assert server.metric("modelramp_request_duration_seconds_count", route="grpc") == 3
    assert server.metric("modelramp_split_requests_total", side="stable", outcome="ok") == 1
    assert server.metric("modelramp_bad_window_sum") == 1


def test_a_message_over_the_limit_is_refused_however_it_is_packed(start, lookup_model, connect) -> None:
    client = connect(start(lookup_model, grpc_port=0, payload_limit=10_000), max_send_message_length=-1)
    assert client.infer(number(), compression=grpc.Compression.Gzip).code is Code.OK
    large = number(raw_input_contents=[bytes(20_000)])
    for compression in (None, grpc.Compression.Gzip):
        reply = client.infer(large, compression=compression)
        assert reply.code is Code.RESOURCE_EXHAUSTED and "larger than max" in reply.details


class Gate:
    """Holds the model inside a forward: on the value 7, until let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.seen: list[int] = []
        load = serve._load
        monkeypatch.setattr(serve, "_load", lambda *arguments: self._gated(*load(*arguments)))

    def _gated(self, model: Any, runtime: Any) -> Any:
        predict = runtime.predict

        def waits(inputs: Mapping[str, Array]) -> dict[str, Array]:
            self.seen += inputs["x"].tolist()
            if 7 in inputs["x"]:
                self.begun.set()
                self.go_on.wait(30)
            result: dict[str, Array] = predict(inputs)
            return result

        runtime.predict = waits
        runtime.only_computes = False
        return model, runtime


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.go_on.set()


def begin(client: RpcClient, gate: Gate) -> Any:
    """A call that is inside the model when this returns."""
    call = client.start(number(7).SerializeToString())
    assert gate.begun.wait(30)
    return call


def test_a_full_queue_says_when_to_come_again(start, lookup_model, connect, gate: Gate) -> None:
    server = start(lookup_model, grpc_port=0, queue_limit=1)
    client = connect(server)
    held = begin(client, gate)
    reply = client.infer(number())
    assert reply.code is Code.UNAVAILABLE and "queue is full" in reply.details
    assert (reply.metadata["retry-after"], reply.metadata["grpc-retry-pushback-ms"]) == ("1", "1000")
    assert server.metric("modelramp_rejects_total", reason="queue_full") == 1
    gate.go_on.set()
    assert settled(held).code is Code.OK


def test_a_request_that_takes_too_long(start, lookup_model, connect, gate: Gate) -> None:
    server = start(lookup_model, grpc_port=0, request_timeout=0.3)
    client = connect(server)
    for reply in [client.infer(number(7)) for _ in range(2)]:  # one in the model, one that waits for it
        assert reply.code is Code.DEADLINE_EXCEEDED and "budget of 0.3 s" in reply.details
    assert server.metric("modelramp_requests_total", route="grpc", code="504") == 2
    assert server.metric("modelramp_rejects_total", reason="timeout") == 2
    assert server.metric("modelramp_split_requests_total", side="stable", outcome="bad") == 2


def test_the_clients_deadline_is_the_requests_budget(start, lookup_model, connect, gate: Gate) -> None:
    server = start(lookup_model, grpc_port=0)
    client = connect(server)
    held = begin(client, gate)
    assert client.infer(number(), timeout=0.3).code is Code.DEADLINE_EXCEEDED
    gate.go_on.set()
    assert settled(held).code is Code.OK
    eventually(lambda: server.metric("modelramp_requests_total", route="grpc") == 2)
    assert 2 not in gate.seen, "nobody waits for it any more"


def test_a_cancelled_call_costs_no_forward(start, lookup_model, connect, gate: Gate) -> None:
    server = start(lookup_model, grpc_port=0)
    client = connect(server)
    held = begin(client, gate)
    waiting = client.start(number(5).SerializeToString())
    eventually(lambda: server.metric("modelramp_queue_depth") == 1)
    waiting.cancel()
    eventually(lambda: server.metric("modelramp_requests_total", route="grpc", code="499") == 1)
    gate.go_on.set()
    assert settled(held).code is Code.OK
    assert client.infer(number(3)).code is Code.OK
    assert 5 not in gate.seen
    assert server.metric("modelramp_split_requests_total", side="stable", outcome="neutral") == 1


def test_while_the_model_loads(start, lookup_model, connect, monkeypatch) -> None:
    go_on = threading.Event()
    load = serve._load
    monkeypatch.setattr(serve, "_load", lambda *arguments: (go_on.wait(30), load(*arguments))[1])
    server = start(lookup_model, wait=False, grpc_port=0)
    client = connect(server)
    assert pb.ServerLiveResponse.FromString(client.start(b"", "ServerLive").result()).live
    assert not pb.ServerReadyResponse.FromString(client.start(b"", "ServerReady").result()).ready
    index = pb.RepositoryIndexRequest(ready=True).SerializeToString()
    assert not pb.RepositoryIndexResponse.FromString(client.start(index, "RepositoryIndex").result()).models
    refused: list[RpcReply] = [client.infer(number())]
    refused.append(client.send(pb.ModelMetadataRequest(name="digits").SerializeToString(), "ModelMetadata"))
    for reply in refused:
        assert (reply.code, reply.metadata["retry-after"]) == (Code.UNAVAILABLE, "1") and "loading" in reply.details
    go_on.set()
    server.wait_ready()
    assert client.infer(number()).code is Code.OK


def test_nothing_of_it_is_imported_unless_it_is_asked_for(lookup_model) -> None:
    script = (
        "import sys; from pathlib import Path; from modelramp_server import serve, settings; "
        f"serve.Service(settings.ServeSettings(model_path='m', model_name='m'), Path({str(lookup_model)!r})); "
        "assert not {'grpc', 'modelramp_server.rpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)


def test_who_shows_no_key_is_told_and_not_counted(start, lookup_model, connect, tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(api_keys.entry("alice", "a" * 40))
    server = start(lookup_model, grpc_port=0, api_keys_file=keys, auth_open="")
    client = connect(server)
    for method in ("ModelInfer", "ServerMetadata"):
        reply = client.send(b"", method)
        assert reply.code is Code.UNAUTHENTICATED and "Authorization: Bearer" in reply.details
    assert client.send(b"", "ServerLive").code is Code.OK
    assert server.metric("modelramp_requests_total") == 0
    assert client.infer(number(), metadata=[("authorization", f"Bearer {'a' * 40}")]).code is Code.OK
