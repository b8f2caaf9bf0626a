"""The models under load, as MLflow saves them, and one input for each with what it must give."""

import io
import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow.onnx
import mlflow.sklearn
import numpy as np
import onnx
import onnxruntime
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from examples.digits import models as digits
from examples.digits.data import PIXELS

Array = NDArray[np.float32]
INPUT = "input"
_OPSET, _IR = 18, 10
_SIDE = 224
_UNIT = {"modelramp": {"image": {"preprocess": {"scale": 1 / 255}}}}


@dataclass(frozen=True)
class Saved:
    """A folder with an MLmodel; `array` is one row of input, `expected` its output, `jpeg` a file of the same; `python`
    has what it needs, and so have the folders `packages` of other interpreters' `sys.path`."""

    name: str
    folder: Path
    array: Array
    expected: Array
    jpeg: bytes = b""
    python: str = sys.executable
    packages: tuple[str, ...] = ()

    @property
    def network(self) -> Path:
        """The ONNX graph, or torch's program."""
        graph = self.folder / "model.onnx"
        return graph if graph.exists() else self.folder / "data" / "model.pt2"


def tiny(folder: Path) -> Saved:
    """A network of 32 inputs, one hidden layer of 32, 8 outputs."""
    random = np.random.default_rng(0)
    weight = partial(_weight, random)
    nodes = [
        helper.make_node("Gemm", [INPUT, "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["output"]),
    ]
    weights = [weight("w1", 32, 32), weight("b1", 32), weight("w2", 32, 8), weight("b2", 8)]
    row = random.random((1, 32), np.float32).round(4)
    return _saved("tiny", folder, nodes, weights, [32], 8, row)


def cnn(folder: Path) -> Saved:
    """Three convolutions over 3 x 224 x 224, about 15 million multiplications, 10 outputs."""
    random = np.random.default_rng(0)
    weight = partial(_weight, random)
    channels, nodes, weights = [3, 16, 32, 64], [], []
    value = INPUT
    for layer, (size, stride) in enumerate([(7, 4), (3, 2), (3, 2)]):
        pads = [size // 2] * 4
        names = [value, f"w{layer}", f"b{layer}"]
        nodes.append(helper.make_node("Conv", names, [f"c{layer}"], strides=[stride] * 2, pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        weights += [weight(names[1], channels[layer + 1], channels[layer], size, size)]
        weights += [weight(names[2], channels[layer + 1])]
        value = f"r{layer}"
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["output"]),
    ]
    weights += [weight("w", 64, 10), weight("b", 10)]
    jpeg = _jpeg(random)
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)), np.float32) / np.float32(255)
    row = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
    return _saved("cnn", folder, nodes, weights, [3, _SIDE, _SIDE], 10, row, jpeg)


def sklearn(folder: Path) -> Path:
    """A scikit-learn pipeline as skops: a folder to start a server with."""
    # MLflow hands a named tensor to a model as a dictionary, which no scikit-learn estimator takes.
    unnamed = Schema([TensorSpec(np.dtype(np.float32), (-1, PIXELS))])
    mlflow.sklearn.save_model(
        digits.fair(),
        folder,
        signature=ModelSignature(unnamed, Schema([TensorSpec(np.dtype(np.int64), (-1,))])),
        serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
        pip_requirements=["scikit-learn", "skops"],
    )
    return folder


def _saved(
    name: str,
    folder: Path,
    nodes: list[Any],
    weights: list[Any],
    shape: list[int],
    width: int,
    array: Array,
    jpeg: bytes = b"",
) -> Saved:
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", *shape])
    found = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", width])
    graph = helper.make_graph(nodes, name, [given], [found], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    dtype = np.dtype(np.float32)
    mlflow.onnx.save_model(
        model,
        folder,
        signature=ModelSignature(
            Schema([TensorSpec(dtype, (-1, *shape), INPUT)]), Schema([TensorSpec(dtype, (-1, width), "output")])
        ),
        save_as_external_data=False,
        pip_requirements=["onnxruntime"],
        metadata=_UNIT if jpeg else None,
    )
    saved = Saved(name, folder, array, array, jpeg)
    session = onnxruntime.InferenceSession(str(saved.network))
    return Saved(name, folder, array, session.run(None, {INPUT: array})[0], jpeg)


def _weight(random: np.random.Generator, name: str, *shape: int) -> Any:
    spread = 1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
    return numpy_helper.from_array((random.standard_normal(shape) * spread).astype(np.float32), name)


def _jpeg(random: np.random.Generator) -> bytes:
    """Smooth blobs: as a photo, it compresses to some ten kilobytes."""
    coarse = random.integers(0, 256, (28, 28, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
