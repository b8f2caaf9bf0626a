"""Keras 3 models (`.keras`) on torch. Whatever backend they were trained on, their layers are Keras's own."""

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from modelramp_server.protocol.tensors import DATATYPES, Array, TensorSpec
from modelramp_server.runtime import keras_file, torch_result
from modelramp_server.runtime.base import LoadFailed, UnsupportedModel, first_line
from modelramp_server.runtime.cpus import cpus
from modelramp_server.runtime.device import place_on_torch
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.runtime.torch_threads import TorchThreads
from modelramp_server.settings import Device


class KerasRuntime:
    """A Keras model, called with `training=False`."""

    name = "keras"
    named_outputs = False
    only_computes = at_once = False

    def __init__(self, model: MLmodel, device: Device, allow_code: bool) -> None:
        """Load the model.

        Raises:
            UnsupportedModel: a model that was never built, or strings as inputs.
            DeviceUnavailable: `cuda` is wanted and can't be had.
            LoadFailed: Keras refuses the file.
        """
        placement = place_on_torch(device)
        self.device, self.fallback = placement.device, placement.fallback
        keras = _keras(self.device)
        self._threads = TorchThreads(cpus())
        path = keras_file.path(model)
        try:
            self._model = keras.saving.load_model(path, compile=False, safe_mode=not allow_code)
        except Exception as error:
            raise LoadFailed(f"Keras can't load {path.name}: {first_line(error)}") from error
        self.inputs = _inputs(model, self._model)
        self._names = [spec.name for spec in model.signature.outputs]
        self.outputs: tuple[TensorSpec, ...] = ()

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One forward."""
        arrays = [inputs[spec.name] for spec in self.inputs]
        self._threads.tell()
        with torch.inference_mode():
            result = self._model(arrays[0] if len(arrays) == 1 else arrays, training=False)
        return torch_result.arrays(result, self._names)

    def use_threads(self, count: int) -> None:
        """See UsesThreads."""
        self._threads.use(count)


def _keras(device: str) -> ModuleType:
    """Keras, which reads its backend and device from the environment when it is first imported."""
    os.environ["KERAS_BACKEND"] = "torch"
    os.environ["KERAS_TORCH_DEVICE"] = device
    import keras

    if keras.backend.backend() != "torch":
        raise LoadFailed(f"Keras was imported with the backend {keras.backend.backend()}; only torch is served")
    return keras  # type: ignore[no-any-return]


def _inputs(model: MLmodel, loaded: Any) -> tuple[TensorSpec, ...]:
    """What the model itself says, for a signature may leave sizes open that it fixes; names from the signature."""
    tensors = getattr(loaded, "inputs", None)
    if not tensors:
        if not model.signature.inputs:
            raise UnsupportedModel("neither the signature nor the model tells the inputs; log it with a signature")
        return tuple(
            TensorSpec(spec.name or f"input_{index}", spec.datatype, spec.shape)
            for index, spec in enumerate(model.signature.inputs)
        )
    named = model.signature.inputs if len(model.signature.inputs) == len(tensors) else [None] * len(tensors)
    return tuple(
        TensorSpec((spec.name if spec else "") or tensor.name, _datatype(tensor), _shape(tensor))
        for spec, tensor in zip(named, tensors, strict=True)
    )


def _datatype(tensor: Any) -> str:
    try:
        return DATATYPES[np.dtype(tensor.dtype)]
    except (KeyError, TypeError):
        raise UnsupportedModel(f"the Keras model's input {tensor.name} is {tensor.dtype}; numbers are served") from None


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(-1 if size is None else int(size) for size in tensor.shape)
