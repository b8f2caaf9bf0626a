"""Pictures, and models that look at them: whether red, green or blue prevails, and where it is red."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.server import models

Array = NDArray[Any]
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CLASSES = list(COLORS)
UNIT = {"scale": 1 / 255}


def encoded(array: Array, kind: str = "PNG", **options: Any) -> bytes:
    """Pixels as a file."""
    return saved(Image.fromarray(np.asarray(array, np.uint8)), kind, **options)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(body: bytes) -> Image.Image:
    """A file as an image."""
    image = Image.open(io.BytesIO(body))
    image.load()
    return image


def plain(color: str, width: int = 64, height: int = 48) -> Array:
    """A picture of one colour."""
    return np.full((height, width, 3), COLORS[color], np.uint8)


def half_red(width: int = 64, height: int = 48) -> Array:
    """Red on the left, blue on the right."""
    array = plain("blue", width, height)
    array[:, : width // 2] = COLORS["red"]
    return array


def classifier(shape: tuple[Any, ...] = ("rows", 3, 16, 16)) -> onnx.ModelProto:
    """`scores`: ten times the mean of each channel (float32, NCHW)."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "ten"], ["scores"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], shape[1]])],
        [numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
         numpy_helper.from_array(np.array(10, np.float32), "ten")],
    )  # fmt: skip
    return models.onnx_model(graph)


def segmenter(size: int = 32) -> onnx.ModelProto:
    """`scores` of two classes for each pixel: a constant one half, and how red it is (float32, NCHW)."""
    weights = np.array([[0, 0, 0], [1, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["pixels", "weights", "bias"], ["scores"])],
        "segmenter",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", 3, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 2, size, size])],
        [numpy_helper.from_array(weights, "weights"),
         numpy_helper.from_array(np.array([0.5, 0], np.float32), "bias")],
    )  # fmt: skip
    return models.onnx_model(graph)


def folder(path: Path, model: onnx.ModelProto, image: Any) -> Path:
    """The model with what it declares of images."""
    models.onnx_folder(path, model)
    document = yaml.safe_load((path / "MLmodel").read_text())
    (path / "MLmodel").write_text(yaml.safe_dump({**document, "metadata": {"modelramp": {"image": image}}}))
    return path


def form(body: bytes, kind: str = "image/png", name: str = "picture.png") -> tuple[bytes, dict[str, str]]:
    """A file as a form, and the headers for it."""
    head = f'--x\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
    head += f"content-type: {kind}\r\n\r\n" if kind else "\r\n"
    return head.encode() + body + b"\r\n--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}
