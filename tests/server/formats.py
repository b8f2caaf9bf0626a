"""One model, the digits classifier's probabilities, in every format that is served, as MLflow would lay it out.

What needs torch or Keras imports them where it is made.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import skops.io
from onnx import TensorProto, helper, numpy_helper

from tests.server import models

PIXELS, CLASSES = 64, 10
_INPUTS = [models.tensor("", "float32", [-1, PIXELS])]
_OUTPUTS = [models.tensor("", "float32", [-1, CLASSES])]
_PYTORCH = {"pytorch": {"model_data": "data"}}

# Runs as the loader of a pyfunc, from the model's own code folder.
_LOADER = """
import json
from pathlib import Path
import numpy as np

class Model:
    def __init__(self, weights):
        self.weights = weights
    def predict(self, data, params=None):
        scores = data @ np.array(self.weights["coef"]).T + np.array(self.weights["intercept"])
        scores = scores * (params or {}).get("scale", 1.0)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

def _load_pyfunc(path):
    return Model(json.loads(Path(path, "weights.json").read_text()))
"""


def sklearn(folder: Path, estimator: Any) -> Path:
    """As skops, asked for probabilities."""
    flavors = {
        "sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"},
        "python_function": {"loader_module": "mlflow.sklearn", "predict_fn": "predict_proba"},
    }
    models.write_mlmodel(folder, flavors, _INPUTS, _OUTPUTS)
    skops.io.dump(estimator, folder / "model.skops")
    return folder


def onnx_graph(folder: Path, estimator: Any) -> Path:
    """As a graph of one matrix product and a softmax."""
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "weight", "bias"], ["scores"], transB=1),
            helper.make_node("Softmax", ["scores"], ["y"]),
        ],
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", PIXELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", CLASSES])],
        [
            numpy_helper.from_array(estimator.coef_.astype(np.float32), "weight"),
            numpy_helper.from_array(estimator.intercept_.astype(np.float32), "bias"),
        ],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return models.onnx_folder(folder, model)


def pyfunc(folder: Path, estimator: Any) -> Path:
    """As Python code with a file of weights."""
    flavors = {"python_function": {"loader_module": f"loader_{folder.parent.name}", "code": "code", "data": "data"}}
    models.write_mlmodel(folder, flavors, _INPUTS, _OUTPUTS)
    (folder / "code").mkdir()
    (folder / "code" / f"loader_{folder.parent.name}.py").write_text(_LOADER)
    (folder / "data").mkdir()
    weights = {"coef": estimator.coef_.tolist(), "intercept": estimator.intercept_.tolist()}
    (folder / "data" / "weights.json").write_text(json.dumps(weights))
    return folder


def module(estimator: Any) -> Any:
    """As a torch module."""
    import torch

    linear = torch.nn.Linear(PIXELS, CLASSES)
    linear.load_state_dict(
        {"weight": torch.tensor(estimator.coef_).float(), "bias": torch.tensor(estimator.intercept_).float()}
    )
    return torch.nn.Sequential(linear, torch.nn.Softmax(1)).eval()


def torchscript(folder: Path, estimator: Any) -> Path:
    """As mlflow.pytorch saves a scripted module."""
    import torch

    torch.jit.script(module(estimator)).save(str(pytorch_folder(folder) / "model.pth"))
    return folder


def pt2(folder: Path, estimator: Any, rows: int = 2) -> Path:
    """As mlflow.pytorch saves a module by default; the example's rows decide whether the batch is free."""
    import torch

    free = torch.export.Dim.AUTO
    program = torch.export.export(module(estimator), (torch.zeros(rows, PIXELS),), dynamic_shapes=[{0: free}])
    torch.export.save(program, pytorch_folder(folder) / "model.pt2")
    return folder


def eager(folder: Path, estimator: Any) -> Path:
    """As mlflow.pytorch saves a module with serialization_format="pickle"."""
    import torch

    torch.save(module(estimator), pytorch_folder(folder) / "model.pth")
    return folder


def keras(folder: Path, estimator: Any) -> Path:
    """As mlflow.keras saves a model."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as library

    model = library.Sequential([library.Input((PIXELS,)), library.layers.Dense(CLASSES, activation="softmax")])
    model.layers[0].set_weights([estimator.coef_.T, estimator.intercept_])
    model.save(keras_folder(folder) / "model.keras")
    return folder


def pytorch_folder(folder: Path) -> Path:
    """An artifact of the pytorch flavour; where its file belongs."""
    models.write_mlmodel(folder, _PYTORCH, _INPUTS, _OUTPUTS)
    (folder / "data").mkdir(exist_ok=True)
    return folder / "data"


def keras_folder(folder: Path) -> Path:
    """An artifact of the keras flavour; where its file belongs."""
    models.write_mlmodel(folder, {"keras": {"data": "data", "save_exported_model": False}}, _INPUTS, _OUTPUTS)
    (folder / "data").mkdir(exist_ok=True)
    return folder / "data"
