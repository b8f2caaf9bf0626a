"""scikit-learn models: skops files, or pickles where ALLOW_CODE is set."""

import importlib.util
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.runtime.base import LoadFailed, MissingPackages
from modelramp_server.runtime.device import place_on_cpu
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.settings import Device

_OUTPUT = "predict"
_INPUT = "input"
PANDAS = "pandas, not in this image: pip install 'modelramp[pyfunc]'"
_BY_NAME = "columns using strings is only supported for"
_ARRAYS_FOR_A_FRAME = "X does not have valid feature names"


class SklearnRuntime:
    """An estimator or pipeline. Its `predict` function is the one that MLmodel names."""

    name = "sklearn"
    named_outputs = at_once = False

    def __init__(self, model: MLmodel, device: Device, allow_code: bool) -> None:
        """Load the estimator.

        Raises:
            UnsupportedModel: types outside the allowlist.
            LoadFailed: the file can't be read.
            MissingPackages: text columns need pandas.
            DeviceUnavailable: `cuda` is wanted.
        """
        placement = place_on_cpu(device, self.name)
        self.device, self.fallback = placement.device, placement.fallback
        flavor = model.flavors["sklearn"]
        path = model.file("sklearn", "pickled_model", "model.pkl")
        skops_format = flavor.get("serialization_format") == "skops" or path.suffix == ".skops"
        self._estimator = _load_skops(path, allow_code) if skops_format else _load_pickle(path)
        self.only_computes = skops_format and not allow_code and not _is_parallel(self._estimator)
        function = str(model.flavors.get("python_function", {}).get("predict_fn") or "predict")
        self._predict = getattr(self._estimator, function, None)
        if self._predict is None:
            raise LoadFailed(f"MLmodel's predict_fn is {function}, which {type(self._estimator).__name__} lacks")
        warnings.filterwarnings("ignore", _ARRAYS_FOR_A_FRAME, UserWarning)
        self._columns = [column.name for column in model.signature.columns]
        self.inputs = _inputs(model, self._estimator)
        self._frame = bool(self._columns) and importlib.util.find_spec("pandas") is not None
        if not self._frame and any(spec.datatype == "BYTES" for spec in self.inputs if self._columns):
            raise MissingPackages(f"the model's inputs have text columns, which need {PANDAS}")
        names = [spec.name for spec in model.signature.outputs]
        self._output = names[0] if len(names) == 1 and names[0] else _OUTPUT
        self.outputs: tuple[TensorSpec, ...] = ()

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the estimator on all rows.

        Raises:
            MissingPackages: it chooses columns by name, which needs pandas.
        """
        assert self._predict is not None
        rows = self._rows(inputs)
        try:
            return {self._output: np.asarray(self._predict(rows))}
        except ValueError as error:
            if self._columns and not self._frame and _BY_NAME in str(error):
                raise MissingPackages(f"the model takes its columns by name, which needs {PANDAS}") from None
            raise

    def _rows(self, inputs: Mapping[str, Array]) -> Any:
        if not self._columns:
            return inputs[self.inputs[0].name]
        if self._frame:
            import pandas

            return pandas.DataFrame({name: inputs[name] for name in self._columns})
        return np.column_stack([inputs[name] for name in self._columns])


def _is_parallel(estimator: Any) -> bool:
    """Whether other threads compute in the caller's place."""
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    return any(name.rpartition("__")[2] == "n_jobs" and jobs not in (None, 1) for name, jobs in params.items())


def _load_skops(path: Path, allow_code: bool) -> Any:
    from modelramp_server.runtime import skops_file

    return skops_file.load(path, allow_code)


def _load_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return pickle.load(file)
    except Exception as error:
        raise LoadFailed(f"{path.name} can't be unpickled: {error}") from error


def _inputs(model: MLmodel, estimator: Any) -> tuple[TensorSpec, ...]:
    if model.signature.columns:
        return tuple(TensorSpec(column.name, column.datatype, (-1,)) for column in model.signature.columns)
    if len(model.signature.inputs) == 1:
        spec = model.signature.inputs[0]
        return (TensorSpec(spec.name or _INPUT, spec.datatype, spec.shape),)
    features = getattr(estimator, "n_features_in_", None)
    if features is None:
        raise LoadFailed("neither the signature nor the estimator tells the inputs; log it with a signature")
    return (TensorSpec(_INPUT, "FP64", (-1, int(features))),)
