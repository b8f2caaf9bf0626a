"""Torch models: TorchScript modules, exported programs (pt2), and, where code is allowed, pickled modules."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec
from modelramp_server.runtime import torch_file, torch_result
from modelramp_server.runtime.base import LoadFailed, UnsupportedModel, first_line
from modelramp_server.runtime.cpus import cpus
from modelramp_server.runtime.device import place_on_torch
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.runtime.torch_threads import TorchThreads
from modelramp_server.settings import Device

_CLOSE = {"rtol": 1e-3, "atol": 1e-5}

log = logging.getLogger(__name__)


class TorchRuntime:
    """A module on one device. Its inputs are those of the signature, in that order."""

    named_outputs = at_once = False

    def __init__(self, model: MLmodel, device: Device, allow_code: bool) -> None:
        """Load the module.

        Raises:
            UnsupportedModel: code without ALLOW_CODE, or no tensor signature.
            DeviceUnavailable: `cuda` is wanted and can't be had.
            LoadFailed: torch refuses the file.
        """
        self.inputs = _inputs(model)
        self.only_computes = not allow_code
        self._names = [spec.name for spec in model.signature.outputs]
        self.outputs: tuple[TensorSpec, ...] = ()
        placement = place_on_torch(device)
        self.device, self.fallback = placement.device, placement.fallback
        self._threads = TorchThreads(cpus())
        folder = model.file("pytorch", "model_data", "data")
        kind = torch_file.kind(folder)
        self.name = "torchscript" if kind == "torchscript" else "torch"
        try:
            self._module = self._load(kind, folder, allow_code)
        except (OSError, RuntimeError, ValueError, AttributeError, ImportError) as error:
            raise LoadFailed(f"torch can't load the model: {first_line(error)}") from error

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One forward."""
        self._threads.tell()
        with torch.inference_mode():
            result = self._module(*(_tensor(inputs[spec.name]).to(self.device) for spec in self.inputs))
        return torch_result.arrays(result, self._names)

    def use_threads(self, count: int) -> None:
        """See UsesThreads."""
        self._threads.use(count)

    def _load(self, kind: torch_file.Kind, folder: Path, allow_code: bool) -> Any:
        if kind == "pt2":
            return _load_pt2(folder / torch_file.PT2, self.device, len(self.inputs), allow_code)
        if kind == "pickle":
            return _load_pickle(folder / torch_file.PTH, self.device)
        module = _load_torchscript(folder / torch_file.PTH, self.device)
        return _optimized(module, self.inputs) if self.device == "cpu" else module


def _inputs(model: MLmodel) -> tuple[TensorSpec, ...]:
    specs = model.signature.inputs
    if not specs or any(spec.datatype == "BYTES" for spec in specs):
        raise UnsupportedModel("a torch model needs a signature of numeric tensors; log it with one")
    return tuple(
        TensorSpec(spec.name or ("input" if index == 0 else f"input_{index}"), spec.datatype, spec.shape)
        for index, spec in enumerate(specs)
    )


def _load_torchscript(path: Path, device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated; that is the author's to know
        return torch.jit.load(str(path), map_location=device).eval()


def _load_pt2(path: Path, device: str, inputs: int, allow_code: bool) -> Any:
    from modelramp_server.runtime import pt2_file, pt2_program

    program = pt2_file.load(path, allow_code)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return pt2_program.callable_of(program, inputs)


def _load_pickle(path: Path, device: str) -> Any:
    module = torch.load(path, map_location=device, weights_only=False)
    if not isinstance(module, torch.nn.Module):
        raise UnsupportedModel(f"{path.name} holds a {type(module).__name__} and no module; log the module itself")
    return module.eval()


def _optimized(module: Any, specs: tuple[TensorSpec, ...]) -> Any:
    """The module with its layers fused and its weights laid out for this CPU, if it answers as before."""
    example = [_example(spec) for spec in specs]
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            faster = torch.jit.optimize_for_inference(torch.jit.freeze(module))
            torch.testing.assert_close(faster(*example), module(*example), equal_nan=True, **_CLOSE)
    except Exception as error:
        log.info("served as it is, for torch.jit.optimize_for_inference does not fit it: %s", first_line(error))
        return module
    return faster


def _example(spec: TensorSpec) -> torch.Tensor:
    shape = [1 if size < 0 else size for size in spec.shape]
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(torch.from_numpy(DTYPES[spec.datatype].type(0).reshape(1)).dtype)


def _tensor(array: Array) -> torch.Tensor:
    # What was read from a request's bytes is read-only, which torch has no word for.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
