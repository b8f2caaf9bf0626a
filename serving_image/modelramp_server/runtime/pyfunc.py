"""Any MLflow model, through mlflow.pyfunc: the fallback for flavours without a runtime of their own.

What the loader does can't be seen from outside, so it runs only with ALLOW_CODE.
"""

import json
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas

from modelramp_server.protocol.outputs import Named, Records
from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.runtime.base import LoadFailed, UnsupportedModel, first_line
from modelramp_server.runtime.device import place_on_cpu
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.settings import Device

_INPUT = "input"
_OUTPUT = "predict"


class PyfuncRuntime:
    """A pyfunc: frames in for a signature of columns, arrays for one of tensors."""

    name = "pyfunc"
    named_outputs = False
    only_computes = at_once = False

    def __init__(self, model: MLmodel, device: Device) -> None:
        """Load the model.

        Raises:
            UnsupportedModel: no signature of columns or tensors.
            DeviceUnavailable: `cuda` is wanted.
            LoadFailed: its loader raised.
        """
        placement = place_on_cpu(device, self.name)
        self.device, self.fallback = placement.device, placement.fallback
        self._columns = [column.name for column in model.signature.columns]
        self.inputs = _inputs(model)
        self.outputs: tuple[TensorSpec, ...] = ()
        self._model = _load(model)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call, with the defaults of the signature's params."""
        return _arrays(self._model.predict(self._data(inputs)))

    def predict_with(self, inputs: Mapping[str, Array], params: Mapping[str, Any]) -> dict[str, Array]:
        """One call with params."""
        return _arrays(self._model.predict(self._data(inputs), params=dict(params)))

    def _data(self, inputs: Mapping[str, Array]) -> Any:
        if self._columns:
            return pandas.DataFrame({name: inputs[name] for name in self._columns})
        if len(self.inputs) == 1 and self.inputs[0].name == _INPUT:
            return inputs[_INPUT]
        return dict(inputs)


def _load(model: MLmodel) -> Any:
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    os.environ["MLFLOW_DEFAULT_PREDICTION_DEVICE"] = "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's, of its own type hints
        import mlflow.pyfunc

    try:
        return mlflow.pyfunc.load_model(str(model.root), suppress_warnings=True)
    except Exception as error:
        raise LoadFailed(f"mlflow.pyfunc can't load the model: {first_line(error)}") from error


def _inputs(model: MLmodel) -> tuple[TensorSpec, ...]:
    signature = model.signature
    if signature.columns:
        return tuple(TensorSpec(column.name, column.datatype, (-1,)) for column in signature.columns)
    if len(signature.inputs) == 1 and not signature.inputs[0].name:
        return (TensorSpec(_INPUT, signature.inputs[0].datatype, signature.inputs[0].shape),)
    if signature.inputs and all(spec.name for spec in signature.inputs):
        return signature.inputs
    raise UnsupportedModel(
        "a pyfunc needs a signature whose inputs are tensors, or columns of numbers, strings or booleans; "
        "log it with one"
    )


def _arrays(result: Any) -> dict[str, Array]:
    """A frame's columns by name, a mapping's values by key, or the one thing that it is."""
    if isinstance(result, pandas.Series):
        result = result.to_frame()
    if isinstance(result, pandas.DataFrame):
        return Records({str(name): _array(column) for name, column in result.items()})
    if isinstance(result, Mapping):
        return Named({str(name): _array(value) for name, value in result.items()})
    return {_OUTPUT: _array(result)}


def _array(value: Any) -> Array:
    """Numbers as they are; of anything else, what MLflow's JSON would have.

    Raises:
        TypeError: that has no place for it.
    """
    value = value.toarray() if hasattr(value, "toarray") else value
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        array = np.fromiter(value, object)
    if array.dtype.kind not in "USMmO":
        return array
    if isinstance(value, pandas.Series):
        value = value.astype(object)  # pandas' timestamps are no integers, as numpy's are
    objects = array if array.dtype == object else np.array(value, dtype=object)
    return np.fromiter(map(_plain, objects.flat), object, objects.size).reshape(objects.shape)


def _plain(item: Any) -> Any:
    if item is None or isinstance(item, str | bytes):
        return item
    from mlflow.utils.proto_json_utils import NumpyEncoder

    return json.loads(json.dumps(item, cls=NumpyEncoder))
