"""The network that every peer serves: the same file, the same session options as modelramp's, JPEG by Pillow."""

import base64
import io
import os

import numpy as np
import onnxruntime
from PIL import Image


class Network:
    """An ONNX graph of one input and one output."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, array):
        return self._session.run(None, {self._input: array})[0]


def of_jpeg(file):
    """Bytes of a JPEG, or base64 of them, as an array [1, 3, height, width] of 0 to 1."""
    if isinstance(file, str):
        file = base64.b64decode(file)
    return of_image(Image.open(io.BytesIO(file)))


def of_image(image):
    """The same of what Pillow has opened."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
