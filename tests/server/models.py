"""Model folders as MLflow would write them, made without importing mlflow (which takes longer than the tests)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import skops.io
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

Array = NDArray[Any]
FOUR_COLUMNS = [
    {"type": "double", "name": "a", "required": True},
    {"type": "float", "name": "b", "required": True},
    {"type": "double", "name": "c", "required": True},
    {"type": "long", "name": "n", "required": True},
]


def digits() -> tuple[Array, Array]:
    """The handwritten digits that scikit-learn ships: 1,797 x 64 pixels, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return images, labels


def classifier() -> LogisticRegression:
    """A linear model of the first thousand digits."""
    images, labels = digits()
    return LogisticRegression(max_iter=100).fit(images[:1000] / 16, labels[:1000])


def write_mlmodel(folder: Path, flavors: dict[str, Any], inputs: list[Any], outputs: list[Any]) -> Path:
    """A folder with an MLmodel file."""
    folder.mkdir(parents=True, exist_ok=True)
    signature = {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs)}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, "signature": signature}))
    return folder


def tensor(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    """One tensor of a signature; "" for an unnamed one."""
    spec: dict[str, Any] = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}
    return {**spec, "name": name} if name else spec


def sklearn_folder(folder: Path, estimator: Any) -> Path:
    """The estimator as skops."""
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops"}
    write_mlmodel(folder, {"sklearn": flavor}, [tensor("", "float64", [-1, 64])], [tensor("", "int64", [-1])])
    skops.io.dump(estimator, folder / "model.skops")
    return folder


def gaps_folder(folder: Path, inputs: list[Any] = FOUR_COLUMNS) -> Path:
    """A classifier of frames of four columns that takes gaps, as skops that MLflow loads too."""
    import pandas

    known = pandas.DataFrame(
        [[1, 5, None, 1], [None, 6, 2, 0], [3, None, 2, 1], [4, 8, 1, 0]] * 10, columns=list("abcn")
    )
    estimator = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=1).fit(known, [0, 1, 2, 1] * 10)
    sklearn_folder(folder, estimator)
    trusted = skops.io.get_untrusted_types(file=folder / "model.skops")
    flavors = {
        "sklearn": {"pickled_model": "model.skops", "serialization_format": "skops", "skops_trusted_types": trusted},
        "python_function": {"loader_module": "mlflow.sklearn", "model_path": "model.skops"},
    }
    return write_mlmodel(folder, flavors, inputs, [tensor("", "int64", [-1])])


def onnx_folder(folder: Path, model: onnx.ModelProto) -> Path:
    """The graph as ONNX."""
    write_mlmodel(folder, {"onnx": {"data": "model.onnx"}}, [], [])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def onnx_classifier(estimator: Any) -> onnx.ModelProto:
    """The estimator as a graph from X (float32) to label and probabilities."""
    return to_onnx(estimator, np.zeros((1, 64), np.float32), options={"zipmap": False}, target_opset=18)


def onnx_zipmap(estimator: Any) -> onnx.ModelProto:
    """The same, whose probabilities are maps from classes."""
    return to_onnx(estimator, np.zeros((1, 64), np.float32), target_opset=18)


def sums() -> onnx.ModelProto:
    """`total = a + b`, as a column and as a matrix of one."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Unsqueeze", ["total", "axes"], ["matrix"]),
        ],
        "sums",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in "ab"],
        [
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["rows"]),
            helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", 1]),
        ],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    return onnx_model(graph)


def lookup(rows: str | int = "rows") -> onnx.ModelProto:
    """`y = table[x]`, with a table of ten: it fails on 10 and above, as a model may on some inputs only."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows])],
        [numpy_helper.from_array(np.arange(10, dtype=np.float32) * 10, "table")],
    )
    return onnx_model(graph)


ECHOED = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def echo() -> onnx.ModelProto:
    """Every datatype of V2 goes in under its name in lower case, and comes out as `<name>_out`: no value is lost."""
    names = {datatype: datatype.lower() for datatype in ECHOED}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names.values()],
        "echo",
        [helper.make_tensor_value_info(names[datatype], kind, ["rows"]) for datatype, kind in ECHOED.items()],
        [helper.make_tensor_value_info(f"{names[datatype]}_out", kind, ["rows"]) for datatype, kind in ECHOED.items()],
    )
    return onnx_model(graph)


def across_rows() -> onnx.ModelProto:
    """`y = x - mean of all rows`: a model whose batches answer other than its rows do."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        "across_rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(np.array([0], np.int64), "axes")],
    )
    return onnx_model(graph)


def onnx_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """The graph as a model that onnxruntime takes."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model
