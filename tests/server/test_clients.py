"""The clients that people have: tritonclient, KServe's, MLflow's; each in every form that it can speak."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from tests.server import models
from tests.server.served import Served

ROWS = 40
CODINGS = [None, "gzip", "deflate"]


@pytest.fixture
def triton(onnx_server: Served) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{onnx_server.port}") as client:
        yield client


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("sent", CODINGS)
@pytest.mark.parametrize("wanted", CODINGS)
def test_tritonclient_in_every_form_and_coding(
    triton: InferenceServerClient, estimator: Any, binary: bool, sent: str | None, wanted: str | None
) -> None:
    images = models.digits()[0][1000 : 1000 + ROWS] / 16
    tensor = InferInput("X", [ROWS, 64], "FP32")
    tensor.set_data_from_numpy(images.astype(np.float32), binary_data=binary)
    result = triton.infer(
        "digits",
        [tensor],
        outputs=[InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")],
        request_id="one",
        request_compression_algorithm=sent,
        response_compression_algorithm=wanted,
    )
    assert result.get_response()["id"] == "one"
    assert result.as_numpy("label").tolist() == estimator.predict(images).tolist()
    assert np.allclose(result.as_numpy("probabilities"), estimator.predict_proba(images), atol=1e-4)


SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-65504.0, 0.5],
    "FP32": [-1.5e38, 0.25],
    "FP64": [-1.5e308, 0.1],
    "BYTES": ["", "größer"],
}


@pytest.mark.parametrize("binary_in", ["none", "all", "even", "odd"])
@pytest.mark.parametrize("binary_out", ["none", "all", "even", "odd"])
def test_every_datatype_in_any_mix_of_forms_comes_back_as_it_went(
    echo_server: Served, binary_in: str, binary_out: str
) -> None:
    def binary(rule: str, index: int) -> bool:
        return rule == "all" or (rule == "even" and index % 2 == 0) or (rule == "odd" and index % 2 == 1)

    inputs, outputs = [], []
    for index, (datatype, values) in enumerate(SAMPLES.items()):
        tensor = InferInput(datatype.lower(), [2], datatype)
        kind: Any = object if datatype == "BYTES" else models.helper.tensor_dtype_to_np_dtype(models.ECHOED[datatype])
        # tritonclient writes no JSON of FP16
        tensor.set_data_from_numpy(np.array(values, kind), binary_data=binary(binary_in, index) or datatype == "FP16")
        inputs.append(tensor)
        outputs.append(InferRequestedOutput(f"{datatype.lower()}_out", binary_data=binary(binary_out, index)))
    with InferenceServerClient(f"127.0.0.1:{echo_server.port}") as client:
        result = client.infer("digits", inputs, outputs=outputs)
    for datatype, values in SAMPLES.items():
        found = result.as_numpy(f"{datatype.lower()}_out").tolist()
        text = [item.decode() if isinstance(item, bytes) else item for item in found]
        assert text == pytest.approx(values) if datatype == "FP32" else text == values, datatype


def test_outputs_are_all_binary_or_not_as_the_request_says(onnx_server: Served) -> None:
    def ask(**more: Any) -> list[bool]:
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}], **more}
        reply = onnx_server.call("POST", "/v2/models/digits/infer", body)
        length = reply.headers.get("inference-header-content-length")
        document = json.loads(reply.body[: int(length)] if length else reply.body)
        return ["data" not in output for output in document["outputs"]]

    everything, both = {"binary_data_output": True}, [{"name": "label"}, {"name": "probabilities"}]
    assert ask() == [False, False]
    assert ask(parameters=everything) == [True, True]
    assert ask(parameters=everything, outputs=both) == [True, True]
    one = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "probabilities"}]
    assert ask(parameters=everything, outputs=one) == [False, True]
    other = [{"name": "label"}, {"name": "probabilities", "parameters": {"binary_data": True}}]
    assert ask(outputs=other) == [False, True]


def test_tritonclient_asks_for_the_models_configuration(triton: InferenceServerClient) -> None:
    config = triton.get_model_config("digits", "3")
    assert config["input"] == [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1, 64]}]
    assert [output["data_type"] for output in config["output"]] == ["TYPE_INT64", "TYPE_FP32"]
    assert triton.get_model_repository_index() == [{"name": "digits", "version": "3", "state": "READY", "reason": ""}]


@pytest.mark.parametrize(
    ("call", "arguments", "part"),
    [
        ("load_model", ("digits",), "not loaded"),
        ("unload_model", ("digits",), "not loaded"),
        ("get_system_shared_memory_status", (), "shared memory"),
        ("register_system_shared_memory", ("r", "/key", 64), "shared memory"),
        ("unregister_system_shared_memory", ("r",), "shared memory"),
        ("get_cuda_shared_memory_status", (), "shared memory"),
        ("register_cuda_shared_memory", ("r", b"handle", 0, 64), "shared memory"),
        ("unregister_cuda_shared_memory", (), "shared memory"),
        ("get_trace_settings", (), "trace"),
        ("update_trace_settings", ("digits", {}), "trace"),
        ("get_log_settings", (), "LOG_LEVEL"),
        ("update_log_settings", ({},), "LOG_LEVEL"),
        ("get_inference_statistics", (), "/metrics"),
        ("get_inference_statistics", ("digits", "3"), "/metrics"),
    ],
)
def test_what_is_not_served_is_refused_in_words(
    triton: InferenceServerClient, call: str, arguments: tuple[Any, ...], part: str
) -> None:
    with pytest.raises(InferenceServerException, match=part) as refused:
        getattr(triton, call)(*arguments)
    assert refused.value.status() == "400"


def test_tritonclient_sends_no_shared_memory(triton: InferenceServerClient) -> None:
    tensor = InferInput("X", [1, 64], "FP32")
    tensor.set_shared_memory("region", 256)
    with pytest.raises(InferenceServerException, match="shared memory is not served"):
        triton.infer("digits", [tensor])


def test_the_body_that_tritonclient_makes_without_a_connection(onnx_server: Served) -> None:
    tensor = InferInput("X", [1, 64], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 64), np.float32))
    body, length = InferenceServerClient.generate_request_body([tensor])
    reply = onnx_server.call("POST", "/v2/models/digits/infer", body, {"inference-header-content-length": str(length)})
    header = int(reply.headers["inference-header-content-length"])
    result = InferResult.from_response_body(reply.body, header_length=header)
    assert result.as_numpy("probabilities").shape == (1, 10)


KSERVE = {"accept": "*/*", "accept-encoding": "gzip, deflate", "user-agent": "python-httpx/0.28.1"}


@pytest.mark.parametrize(
    ("path", "field"), [("health/live", "live"), ("health/ready", "ready"), ("models/digits/ready", "")]
)
def test_kserves_client_reads_json_of_the_health_pages(onnx_server: Served, path: str, field: str) -> None:
    reply = onnx_server.call("GET", f"/v2/{path}", headers=KSERVE)
    assert reply.status == 200 and (reply.json[field] is True if field else True)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [None, False, True])
def test_requests_as_kserves_client_writes_them(
    onnx_server: Served, estimator: Any, binary_in: bool, binary_out: bool | None
) -> None:
    """The client itself (InferenceRESTClient of kserve 0.21) brings 450 MiB and an older pandas."""
    images = (models.digits()[0][1000 : 1000 + ROWS] / 16).astype(np.float32)
    tensor: dict[str, Any] = {"name": "X", "shape": [ROWS, 64], "datatype": "FP32"}
    if binary_in:
        tensor["parameters"] = {"binary_data_size": images.nbytes}
    else:
        tensor["data"] = images.ravel().tolist()
    document: dict[str, Any] = {"id": "r1", "model_name": "digits", "inputs": [tensor]}
    if binary_out is not None:
        document["outputs"] = [{"name": "label", "parameters": {"binary_data": binary_out}}]
    body = json.dumps(document).encode()
    headers = {**KSERVE, "content-type": "application/json"}
    if binary_in:
        headers |= {"inference-header-content-length": str(len(body)), "content-type": "application/octet-stream"}
        body += images.tobytes()
    reply = onnx_server.call("POST", "/v2/models/digits/infer", body, headers)
    content = gzip.decompress(reply.body) if reply.headers.get("content-encoding") == "gzip" else reply.body
    length = int(reply.headers.get("inference-header-content-length", len(content)))
    answer = json.loads(content[:length])
    assert answer["id"] == "r1"
    label = np.frombuffer(content[length:], "<i8").tolist() if binary_out else answer["outputs"][0]["data"]
    assert label == estimator.predict(images).tolist()
