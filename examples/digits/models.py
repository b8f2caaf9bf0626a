"""The four versions: a fair one, a better one, one that fails on some real images, one that never warms up.

All take ``image`` (float32, rows x 64) and give ``digit`` (int64, rows), so any of them can stand in for another.
"""

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler

from .data import PIXELS, SEED, split
from .names import INPUT, OUTPUT

FEW = 150  # training images that version 1 has seen
OPSET = 18
INK_PER_BIN, INK_BINS = 10.0, 35  # version 3's table ends at 350; the blackest of the real images have 400


def fair() -> Pipeline:
    """Version 1: a linear model from a few images. About nine in ten right."""
    train, _ = split()
    pipeline = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=300))
    return pipeline.fit(train.images[:FEW], train.labels[:FEW])


@cache
def _better() -> bytes:
    train, _ = split()
    network = MLPClassifier((64,), max_iter=500, random_state=SEED)
    classifier = make_pipeline(MinMaxScaler(), network).fit(train.images, train.labels)
    return bytes(as_onnx(classifier).SerializeToString())


def as_onnx(classifier: Pipeline) -> onnx.ModelProto:
    """It with the names of this model, and with no output but the digit."""
    train, _ = split()
    model = to_onnx(classifier, train.images[:1], target_opset=OPSET, options={"zipmap": False})
    graph = model.graph
    label = graph.output[0]
    _rename(graph, graph.input[0].name, INPUT)
    _rename(graph, label.name, OUTPUT)
    del graph.output[1:]
    return model


def better() -> onnx.ModelProto:
    """Version 2: a small neural network that has seen all training images, as ONNX."""
    return onnx.load_from_string(_better())


def out_of_range() -> onnx.ModelProto:
    """Version 3: version 2 with a correction looked up by the amount of ink, in a table that is too short.

    Empty and pale images pass, and so does every warm-up; ``Gather`` fails on about one real image in eight.
    """
    model = better()
    graph = model.graph
    _rename(graph, OUTPUT, "plain_digit")
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], np.int64), "over_pixels"),
            numpy_helper.from_array(np.array(INK_PER_BIN, np.float32), "ink_per_bin"),
            numpy_helper.from_array(np.zeros(INK_BINS, np.int64), "correction_table"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("ReduceSum", [INPUT, "over_pixels"], ["ink"], keepdims=0),
            helper.make_node("Div", ["ink", "ink_per_bin"], ["ink_bins"]),
            helper.make_node("Cast", ["ink_bins"], ["ink_bin"], to=TensorProto.INT64),
            helper.make_node("Gather", ["correction_table", "ink_bin"], ["correction"]),
            helper.make_node("Add", ["plain_digit", "correction"], [OUTPUT]),
        ]
    )
    graph.output[0].name = OUTPUT
    onnx.checker.check_model(model)
    return model


def confused() -> onnx.ModelProto:
    """No version of the demo: version 2, but every digit above 5 is said to be a 0. It fails on nothing."""
    model = better()
    graph = model.graph
    _rename(graph, OUTPUT, "plain_digit")
    said = np.array([0, 1, 2, 3, 4, 5, 0, 0, 0, 0], np.int64)
    graph.initializer.append(numpy_helper.from_array(said, "label_table"))
    graph.node.append(helper.make_node("Gather", ["label_table", "plain_digit"], [OUTPUT]))
    graph.output[0].name = OUTPUT
    onnx.checker.check_model(model)
    return model


def never_done() -> onnx.ModelProto:
    """Version 4: version 2 behind a clean-up that repeats while the image moves by at least nothing: for ever."""
    model = better()
    graph = model.graph
    feed(graph, "clean_image")
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(np.iinfo(np.int64).max, np.int64), "most_rounds"),
            numpy_helper.from_array(np.array(True), "go_on"),
        ]
    )
    loop = helper.make_node("Loop", ["most_rounds", "go_on", INPUT], ["clean_image"], body=_clean_up())
    graph.node.insert(0, loop)
    onnx.checker.check_model(model)
    return model


def _clean_up() -> onnx.GraphProto:
    """One round: take the absolute value, and go on while the largest change is >= 0 (where > was meant)."""
    shape = ["rows", PIXELS]
    return helper.make_graph(
        [
            helper.make_node("Abs", ["before"], ["after"]),
            helper.make_node("Sub", ["after", "before"], ["change"]),
            helper.make_node("ReduceMax", ["change"], ["largest_change"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["largest_change", "nothing"], ["still_moving"]),
        ],
        "clean_up",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("was_moving", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("still_moving", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, shape),
        ],
        [numpy_helper.from_array(np.array(0, np.float32), "nothing")],
    )


def feed(graph: onnx.GraphProto, new: str, old: str = INPUT) -> None:
    """The nodes that took the old value, as a rule the image, take the new one instead."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    feed(graph, new, old)
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        if value.name == old:
            value.name = new
