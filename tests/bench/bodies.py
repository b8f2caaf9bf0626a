"""One input as each protocol writes it, and how to tell that an answer is right."""

import base64
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .models import INPUT, Array, Saved

JSON = {"content-type": "application/json"}
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Post:
    """A request."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


def v2(saved: Saved, model: str = "bench") -> Post:
    """Open Inference Protocol V2, numbers as text."""
    return _json(_infer(model), {"inputs": [{**_tensor(saved.array), "data": _numbers(saved.array.ravel())}]})


def v2_binary(saved: Saved, model: str = "bench") -> Post:
    """V2 with the input as raw bytes after the JSON."""
    raw = saved.array.tobytes()
    tensor = {**_tensor(saved.array), "parameters": {"binary_data_size": len(raw)}}
    outputs = [{"name": "output", "parameters": {"binary_data": False}}]
    head = _compact({"inputs": [tensor], "outputs": outputs})
    length = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return Post(_infer(model), head + raw, length)


def own(saved: Saved) -> dict[str, Post]:
    """Every way in which this repository's server is asked, by encoding."""
    posts = {"JSON": v2(saved)}
    return {**posts, "binary": v2_binary(saved), "JPEG": jpeg("/predict", saved)} if saved.jpeg else posts


def v2_jpeg(saved: Saved, model: str = "bench") -> Post:
    """V2 with the file as base64 in BYTES."""
    text = base64.b64encode(saved.jpeg).decode()
    tensor = {"name": INPUT, "datatype": "BYTES", "shape": [1], "data": [text]}
    return _json(_infer(model), {"inputs": [tensor]})


def invocations(saved: Saved) -> Post:
    """MLflow's JSON."""
    return _json("/invocations", {"inputs": {INPUT: _numbers(saved.array)}})


def named(path: str, name: str, saved: Saved) -> Post:
    """A JSON object with the array under that name."""
    return _json(path, {name: _numbers(saved.array)})


def named_jpeg(path: str, saved: Saved) -> Post:
    """A JSON object with the file as base64."""
    return _json(path, {"jpeg": base64.b64encode(saved.jpeg).decode()})


def jpeg(path: str, saved: Saved) -> Post:
    """The file as it is."""
    return Post(path, saved.jpeg, {"content-type": "image/jpeg"})


def multipart(path: str, name: str, saved: Saved) -> Post:
    """The file as a form's."""
    mark = "a-mark-that-no-file-has"
    head = f'--{mark}\r\ncontent-disposition: form-data; name="{name}"; filename="a.jpg"\r\ncontent-type: image/jpeg'
    body = f"{head}\r\n\r\n".encode() + saved.jpeg + f"\r\n--{mark}--\r\n".encode()
    return Post(path, body, {"content-type": f"multipart/form-data; boundary={mark}"})


def holds(answer: Any, expected: Array) -> bool:
    """Whether some list in a parsed answer is what the model gives."""
    wanted = expected.ravel().tolist()
    return any(_alike(numbers, wanted) for numbers in _lists(answer))


def _alike(numbers: list[float], wanted: list[float]) -> bool:
    return len(numbers) == len(wanted) and all(
        math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        for one, other in zip(numbers, wanted, strict=True)
    )


def _lists(node: Any) -> Iterator[list[float]]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        if node and all(isinstance(item, int | float) for item in node):
            yield node
        for item in node:
            yield from _lists(item)


def _infer(model: str) -> str:
    return f"/v2/models/{model}/infer"


def _tensor(array: Array) -> dict[str, Any]:
    return {"name": INPUT, "datatype": "FP32", "shape": list(array.shape)}


def _numbers(array: Array) -> Any:
    """Seven digits, which is what a float32 has; more would only make the text longer."""
    return array.astype(float).round(7).tolist()


def _json(path: str, document: object) -> Post:
    return Post(path, _compact(document))


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
