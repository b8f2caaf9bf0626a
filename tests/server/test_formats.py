"""The same model in every format gives the same answers through every protocol."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from tests.server import formats, models
from tests.server.served import Served

ROWS = 3
# Format -> (what makes it, the packages it needs, whether it needs ALLOW_CODE).
FORMATS: dict[str, tuple[Callable[[Path, Any], Path], tuple[str, ...], bool]] = {
    "sklearn": (formats.sklearn, (), False),
    "onnx": (formats.onnx_graph, (), False),
    "pyfunc": (formats.pyfunc, ("pandas", "mlflow"), True),
    "torchscript": (formats.torchscript, ("torch",), False),
    "pt2": (formats.pt2, ("torch",), False),
    "torch": (formats.eager, ("torch",), True),
    "keras": (formats.keras, ("torch", "keras"), False),
}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module", params=FORMATS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, estimator: Any
) -> Iterator[Served]:
    make, packages, allow_code = FORMATS[request.param]
    for package in packages:
        pytest.importorskip(package)
    folder = make(tmp_path_factory.mktemp(request.param) / "model", estimator)
    served = Served(folder, allow_code=allow_code).wait_ready()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def images() -> models.Array:
    return (models.digits()[0][1000 : 1000 + ROWS] / 16).astype(np.float32)


@pytest.fixture(scope="module")
def expected(estimator: Any, images: models.Array) -> models.Array:
    return estimator.predict_proba(images)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_v2(server: Served, images: models.Array, expected: models.Array, binary: bool) -> None:
    client = InferenceServerClient(f"127.0.0.1:{server.port}")
    try:
        metadata = client.get_model_metadata("digits")
        (spec,), (answer,) = metadata["inputs"], metadata["outputs"]
        assert (spec["shape"], spec["datatype"], answer["shape"]) == ([-1, 64], "FP32", [-1, 10])
        tensor = InferInput(spec["name"], [ROWS, 64], "FP32")
        tensor.set_data_from_numpy(images, binary_data=binary)
        outputs = [InferRequestedOutput(answer["name"], binary_data=binary)]
        result = client.infer("digits", [tensor], outputs=outputs).as_numpy(answer["name"])
    finally:
        client.close()
    assert np.allclose(result, expected, atol=1e-5)


def test_invocations(server: Served, images: models.Array, expected: models.Array) -> None:
    reply = server.call("POST", "/invocations", {"instances": images.tolist()})
    predictions = reply.json["predictions"]
    rows = next(iter(predictions.values())) if isinstance(predictions, dict) else predictions
    assert np.allclose(rows, expected, atol=1e-5)
