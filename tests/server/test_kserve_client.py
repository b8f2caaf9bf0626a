"""KServe's own client, REST and gRPC, binary or not. `make server-clients`: it asks for older packages than ours."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.server import models
from tests.server.served import Served

kserve = pytest.importorskip("kserve", reason="make server-clients has it")
ROWS = 40


@pytest.fixture(scope="module")
def server(onnx_model: Path) -> Iterator[Served]:
    running = Served(onnx_model, grpc_port=0).wait_ready()
    yield running
    running.stop()


@pytest.fixture
async def rest() -> AsyncIterator[Any]:
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    yield client
    await client.close()


def images() -> npt.NDArray[np.float32]:
    return (models.digits()[0][1000 : 1000 + ROWS] / 16).astype(np.float32)


def request(binary: bool, wanted: bool | None) -> Any:
    tensor = kserve.InferInput("X", [ROWS, 64], "FP32")
    tensor.set_data_from_numpy(images(), binary_data=binary)
    outputs = None if wanted is None else [kserve.protocol.infer_type.RequestedOutput("label", {"binary_data": wanted})]
    return kserve.InferRequest("digits", [tensor], request_id="r1", request_outputs=outputs)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("wanted", [None, False, True], ids=["default", "json back", "binary back"])
async def test_answers_by_rest(server: Served, rest: Any, estimator: Any, binary: bool, wanted: bool | None) -> None:
    answer = await rest.infer(f"http://127.0.0.1:{server.port}", request(binary, wanted), model_name="digits")
    assert answer.id == "r1"
    assert answer.get_output_by_name("label").as_numpy().tolist() == estimator.predict(images()).tolist()


async def test_health_by_rest(server: Served, rest: Any) -> None:
    address = f"http://127.0.0.1:{server.port}"
    assert await rest.is_server_live(address)
    assert await rest.is_server_ready(address)
    assert await rest.is_model_ready(address, "digits")


async def test_a_mistake_is_told_by_rest(server: Served, rest: Any) -> None:
    tensor = kserve.InferInput("Y", [1, 64], "FP32")
    tensor.set_data_from_numpy(images()[:1], binary_data=False)
    with pytest.raises(Exception, match=r"inputs\[0\].name is 'Y'.*400"):
        await rest.infer(f"http://127.0.0.1:{server.port}", kserve.InferRequest("digits", [tensor]), "digits")


@pytest.mark.parametrize("binary", [False, True], ids=["contents", "raw"])
async def test_answers_and_health_by_grpc(server: Served, estimator: Any, binary: bool) -> None:
    client = kserve.InferenceGRPCClient(f"127.0.0.1:{server.grpc_port}")
    try:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits")
        answer = await client.infer(request(binary, None))
        assert answer.get_output_by_name("label").as_numpy().tolist() == estimator.predict(images()).tolist()
    finally:
        await client.close()
