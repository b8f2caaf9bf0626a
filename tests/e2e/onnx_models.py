"""The demo's first three versions, all as ONNX, whose pods start in a fifth of scikit-learn's time; and three more that
are bad in ways that only live requests show.

Run in a process of its own, since it needs MLflow: ``python -m tests.e2e.onnx_models <address of MLflow>`` prints
the number of each version, by name, as JSON.
"""

import json
import sys
from importlib.metadata import version

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from onnx import TensorProto, helper, numpy_helper

from examples.digits import models
from examples.digits.data import PIXELS
from examples.digits.names import INPUT, OUTPUT
from examples.digits.train import Candidate, register
from tests.e2e.scene import ONNX_MODEL

RENAMED = "picture"
INK = 100.0  # less than any real image has, and more than the images of a warm-up


def hanging() -> onnx.ModelProto:
    """Version 2 behind a loop that never ends where an image has ink on it. It warms up well."""
    model = models.better()
    graph = model.graph
    models.feed(graph, "endless_image")
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], np.int64), "of_pixels"),
            numpy_helper.from_array(np.array(INK, np.float32), "little_ink"),
            numpy_helper.from_array(np.array(np.iinfo(np.int64).max, np.int64), "for_ever"),
            numpy_helper.from_array(np.array(0, np.int64), "not_once"),
            numpy_helper.from_array(np.array(True), "go_on"),
        ]
    )
    nodes = [
        helper.make_node("ReduceSum", [INPUT, "of_pixels"], ["ink"], keepdims=0),
        helper.make_node("ReduceMax", ["ink"], ["most_ink"], keepdims=0),
        helper.make_node("Greater", ["most_ink", "little_ink"], ["is_real"]),
        helper.make_node("Where", ["is_real", "for_ever", "not_once"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "go_on", INPUT], ["endless_image"], body=_round()),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    onnx.checker.check_model(model)
    return model


def _round() -> onnx.GraphProto:
    """The image as it is, and on."""
    shape = ["rows", PIXELS]
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_again"]), helper.make_node("Abs", ["before"], ["after"])],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("go_again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, shape),
        ],
    )


def renamed() -> onnx.ModelProto:
    """Version 2 whose input has another name: it answers 4xx to everybody who knows the former."""
    model = models.better()
    models.feed(model.graph, RENAMED)
    model.graph.input[0].name = RENAMED
    onnx.checker.check_model(model)
    return model


def log(model: onnx.ModelProto, name: str) -> int:
    """Logs and registers it with the right name of its input; the version's number."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, PIXELS), name)]),
        outputs=Schema([TensorSpec(np.dtype(np.int64), (-1,), OUTPUT)]),
    )
    info = mlflow.onnx.log_model(
        model,
        name=ONNX_MODEL,
        registered_model_name=ONNX_MODEL,
        signature=signature,
        save_as_external_data=False,
        pip_requirements=[f"onnxruntime=={version('onnxruntime')}"],
    )
    return int(info.registered_model_version)


def main() -> None:
    numbers: dict[str, int] = {}
    versions = {
        "fair": (models.as_onnx(models.fair()), INPUT),
        "better": (models.better(), INPUT),
        "out of range": (models.out_of_range(), INPUT),
        "hanging": (hanging(), INPUT),
        "renamed": (renamed(), RENAMED),
        "silently wrong": (models.confused(), INPUT),
    }
    candidates = [Candidate(title, title, lambda it: numbers.update({it: log(*versions[it])})) for title in versions]
    register(sys.argv[1], candidates)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
