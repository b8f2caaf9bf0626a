"""ONNX models on onnxruntime. The graph declares its own inputs and outputs; nothing else is needed to run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.runtime.base import LoadFailed, UnsupportedModel, first_line
from modelramp_server.runtime.cpus import cpus
from modelramp_server.runtime.device import Placement, gpu_visible, place
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.settings import Device

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_QUIET = 3
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxRuntime:
    """An onnxruntime session."""

    name = "onnx"
    named_outputs = True
    only_computes = True
    at_once = True

    def __init__(self, model: MLmodel, device: Device) -> None:
        """Load the graph.

        Raises:
            LoadFailed: onnxruntime refuses the file.
            UnsupportedModel: an input is no tensor.
            DeviceUnavailable: `cuda` is wanted and can't be had.
        """
        self._path = model.file("onnx", "data", "model.onnx")
        self._session, placement = _session(self._path, device)
        self.device, self.fallback = placement.device, placement.fallback
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs() if node.type in _DATATYPES)
        self._names = [node.name for node in self._session.get_outputs()]
        self.classes: dict[str, list[str]] = {}

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One forward; sequences of maps (classifiers' ZipMap) become one column per key."""
        values = self._session.run(self._names, inputs)
        return {name: self._as_array(name, value) for name, value in zip(self._names, values, strict=True)}

    def _as_array(self, name: str, value: Any) -> Array:
        if isinstance(value, np.ndarray):
            return value
        keys = sorted(value[0])
        self.classes[name] = [str(key) for key in keys]
        return np.array([[row[key] for key in keys] for row in value], dtype=np.float32)

    def use_threads(self, count: int) -> None:
        """See UsesThreads. A session gets them when it is made; never two of them, for each has the weights."""
        self._session = None
        self._session = _open(self._path, self.device, count)


def _session(path: Path, device: Device) -> tuple[Any, Placement]:
    built = _CUDA in onnxruntime.get_available_providers()
    obstacle = "" if built else "onnxruntime in this image has no CUDA provider"
    placement = place(device, obstacle, expected=gpu_visible())
    session = _open(path, placement.device, cpus())
    if placement.device == "cuda" and session.get_providers()[0] != _CUDA:
        placement = place(device, "onnxruntime could not start its CUDA provider", expected=True)
    return session, placement


def _open(path: Path, device: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    # Idle threads that spin take the cores that the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads
    if device == "cuda":
        onnxruntime.preload_dlls()  # the CUDA libraries of the nvidia-* packages
    providers = [_CUDA, _CPU] if device == "cuda" else [_CPU]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise LoadFailed(f"onnxruntime can't load {path.name}: {first_line(error)}") from error


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DATATYPES and not node.type.startswith("seq(map("):
        raise UnsupportedModel(f"the graph's {node.name} is a {node.type}; only tensors are served")
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in node.shape or ())
    return TensorSpec(node.name, _DATATYPES.get(node.type, "FP32"), shape)
