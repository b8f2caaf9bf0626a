"""The models under load, as MLflow saves them, and one request for each in both JSON forms."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import mlflow.onnx
import mlflow.sklearn
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from examples.digits import models
from examples.digits.data import PIXELS, split
from examples.digits.names import INPUT
from examples.digits.train import SIGNATURE

# MLflow hands a named tensor to a model as a dictionary, which no scikit-learn estimator takes.
_UNNAMED = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, PIXELS))]),
    outputs=Schema([TensorSpec(np.dtype(np.int64), (-1,))]),
)


@dataclass(frozen=True)
class SavedModel:
    """A folder with an MLmodel, and bodies that carry the same one image to `/v2` and to `/invocations`."""

    title: str
    folder: Path
    v2: str
    invocations: str


def save(folder: Path) -> list[SavedModel]:
    """Train both, save them below this folder."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    onnx, sklearn = folder / "onnx", folder / "sklearn"
    mlflow.onnx.save_model(
        models.better(), onnx, signature=SIGNATURE, save_as_external_data=False, pip_requirements=["onnxruntime"]
    )
    mlflow.sklearn.save_model(
        models.fair(),
        sklearn,
        signature=_UNNAMED,
        serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
        pip_requirements=["scikit-learn", "skops"],
    )
    image = split()[1].images[0].tolist()
    return [
        SavedModel("ONNX", onnx, _v2(INPUT, image), _body({"inputs": {INPUT: [image]}})),
        SavedModel("scikit-learn", sklearn, _v2("input", image), _body({"inputs": [image]})),
    ]


def _v2(name: str, image: list[float]) -> str:
    return _body({"inputs": [{"name": name, "datatype": "FP32", "shape": [1, PIXELS], "data": image}]})


def _body(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))
