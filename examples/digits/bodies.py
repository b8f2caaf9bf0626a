"""The held-out images as request bodies in a file, so that the clients need no scikit-learn to send them."""

import json
from pathlib import Path

from .data import PIXELS, split
from .names import INPUT


def write(path: Path) -> None:
    """One line per image: [body of an Open Inference Protocol request, label]."""
    _, held_out = split()
    pairs = zip(held_out.images, held_out.labels, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps([_body(image.tolist()), int(label)]) + "\n" for image, label in pairs))


def _body(pixels: list[float]) -> str:
    tensor = {"name": INPUT, "datatype": "FP32", "shape": [1, PIXELS], "data": pixels}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":"))
