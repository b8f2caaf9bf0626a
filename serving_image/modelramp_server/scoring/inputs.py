"""What Python has (arrays, mappings, frames) as the model's inputs, by the same checks as a request."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.invocations import Model, bind
from modelramp_server.protocol.tensors import Array


def bound(data: Any, model: Model) -> dict[str, Array]:
    """The model's inputs.

    Args:
        data: rows (an array or nested lists), a mapping from the inputs' names to such, or a pandas DataFrame.

    Raises:
        BadRequest: with the input that is wrong.
    """
    if isinstance(data, Mapping):
        return bind({str(name): _values(value) for name, value in data.items()}, None, model, "inputs")
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return _of_frame(data, model)
    rows = _values(data)
    by_position = len(model.inputs) > 1 and isinstance(rows, np.ndarray)
    return bind(None, rows.tolist() if by_position else rows, model, "rows")


def _of_frame(frame: Any, model: Model) -> dict[str, Array]:
    if not frame.columns.is_unique:
        raise BadRequest("the frame has several columns of one name; column names must be distinct")
    return bind({str(name): _column(frame[name]) for name in frame.columns}, frame.to_numpy(), model, "frame")


def _column(series: Any) -> Any:
    """Its values, with None for those that are missing; a cell may be a list itself."""
    missing = series.isna()
    if missing.any():
        return series.astype(object).where(~missing, None).tolist()
    values = series.to_numpy()
    return values if values.dtype.kind in "biuf" else series.tolist()


def _values(data: Any) -> Any:
    """A list, whose items keep their types, or an array."""
    if isinstance(data, list | np.ndarray):
        return data
    return [data] if np.isscalar(data) else np.asarray(data)
