"""The network that every peer serves: the same file, the same session options as modelramp's, JPEG by Pillow."""

import base64
import io
import os
import site

import numpy as np
import onnxruntime
from PIL import Image


class Network:
    """An ONNX graph of one input and one output, or torch's program of such a one."""

    def __init__(self):
        path = os.environ["BENCH_MODEL"]
        self._run = _of_torch(path) if path.endswith(".pt2") else _of_onnx(path)

    def __call__(self, array):
        return self._run(array)


def _of_onnx(path):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})[0]


def _of_torch(path):
    for folder in filter(None, os.environ["BENCH_PACKAGES"].split(os.pathsep)):
        site.addsitedir(folder)  # behind the peer's own
    import torch

    module = torch.export.load(path).module()

    def run(array):
        with torch.inference_mode():
            return module(torch.from_numpy(array)).numpy()

    return run


def of_jpeg(file):
    """Bytes of a JPEG, or base64 of them, as an array [1, 3, height, width] of 0 to 1."""
    if isinstance(file, str):
        file = base64.b64decode(file)
    return of_image(Image.open(io.BytesIO(file)))


def of_image(image):
    """The same of what Pillow has opened."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
