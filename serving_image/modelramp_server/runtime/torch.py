"""TorchScript models on torch, where torch is installed. Eager pickles and pt2 archives can carry code."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec
from modelramp_server.runtime.base import LoadFailed, UnsupportedModel
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.runtime.policy import refuse_code
from modelramp_server.settings import Device


class TorchRuntime:
    """A TorchScript module (`torch.jit.save`), or an exported program where code is allowed."""

    named_outputs = False

    def __init__(self, model: MLmodel, device: Device, allow_code: bool) -> None:
        """Load the module.

        Raises:
            UnsupportedModel: an eager pickle, a pt2 archive without ALLOW_CODE, or no tensor signature.
            LoadFailed: torch refuses the file.
        """
        cuda = device != "cpu" and torch.cuda.is_available()
        self.device = "cuda" if cuda else "cpu"
        folder = model.file("pytorch", "model_data", "data")
        self._module, self.name = _load(folder, self.device, allow_code)
        if not model.signature.inputs:
            raise UnsupportedModel("a torch model needs a tensor signature; log it with one")
        self.inputs = tuple(
            TensorSpec(spec.name or ("input" if index == 0 else f"input_{index}"), spec.datatype, spec.shape)
            for index, spec in enumerate(model.signature.inputs)
        )
        self._output = next((spec.name for spec in model.signature.outputs if spec.name), "output")
        self.outputs: tuple[TensorSpec, ...] = ()

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One forward; inputs in the order of the signature."""
        tensors = [
            torch.from_numpy(inputs[spec.name].astype(DTYPES[spec.datatype])).to(self.device) for spec in self.inputs
        ]
        with torch.inference_mode():
            result = self._module(*tensors)
        if isinstance(result, dict):
            return {str(name): value.cpu().numpy() for name, value in result.items()}
        if isinstance(result, (tuple, list)):
            return {f"{self._output}_{index}": value.cpu().numpy() for index, value in enumerate(result)}
        return {self._output: result.cpu().numpy()}


def _load(folder: Path, device: str, allow_code: bool) -> tuple[Any, str]:
    exported = folder / "model.pt2"
    try:
        if exported.exists():
            refuse_code("model.pt2 is an archive that may hold pickles", "log a TorchScript module", allow_code)
            return torch.export.load(str(exported)).module().to(device), "torch"
        path = folder / "model.pth"
        if not _is_torchscript(path):
            raise UnsupportedModel("model.pth is a pickled module; log a TorchScript module (torch.jit.script)")
        return torch.jit.load(str(path), map_location=device).eval(), "torchscript"
    except (OSError, RuntimeError, ValueError) as error:
        raise LoadFailed(f"torch can't load the model: {str(error).splitlines()[0]}") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
