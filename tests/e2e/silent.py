"""A version that is silently worse: right types, no errors, and the wrong digit for two images in five.

Run as a program it registers that version with the MLflow server at the given address, and prints its number.
"""

import argparse

import mlflow
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.digits.models import better
from examples.digits.names import MODEL, OUTPUT
from examples.digits.train import Candidate, log_onnx, register

LAST_RIGHT = 5


def silently_worse() -> onnx.ModelProto:
    """Version 2, but every digit above 5 is said to be a 0."""
    model = better()
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["plain_digit" if name == OUTPUT else name for name in node.output]
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(LAST_RIGHT, np.int64), "last_right"),
            numpy_helper.from_array(np.array(0, np.int64), "no_digit"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Greater", ["plain_digit", "last_right"], ["given_up"]),
            helper.make_node("Where", ["given_up", "no_digit", "plain_digit"], [OUTPUT]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.INT64, ["rows"]))
    onnx.checker.check_model(model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tracking_uri")
    tracking_uri = parser.parse_args().tracking_uri
    register(tracking_uri, [Candidate("silently worse", silently_worse(), log_onnx)])
    versions = mlflow.MlflowClient(tracking_uri).search_model_versions(f"name='{MODEL}'")
    print(max(int(each.version) for each in versions))


if __name__ == "__main__":
    main()
