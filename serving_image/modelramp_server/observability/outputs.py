"""Watches what the model says for numbers that are none: NaN and infinities are answered as they are, and counted."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import Around, Runtime, TakesParams


class FiniteCheck(Around):
    """A runtime, and a count of the rows that hold what is not finite. Looks once a forward, not once a request."""

    def __init__(self, runtime: Runtime, found: Callable[[int], None]) -> None:
        super().__init__(runtime)
        self._predict = runtime.predict
        self._found = found

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the runtime says."""
        return self._looked_at(self._predict(inputs))

    def _looked_at(self, outputs: dict[str, Array]) -> dict[str, Array]:
        look(outputs, self._found)
        return outputs


class FiniteCheckWithParams(FiniteCheck):
    """The same of a runtime that takes params."""

    def __init__(self, runtime: Runtime, with_params: TakesParams, found: Callable[[int], None]) -> None:
        super().__init__(runtime, found)
        self._predict_with = with_params.predict_with

    def predict_with(self, inputs: Mapping[str, Array], params: Mapping[str, Any]) -> dict[str, Array]:
        """What the runtime says."""
        return self._looked_at(self._predict_with(inputs, params))


def look(outputs: Mapping[str, Array], found: Callable[[int], None]) -> None:
    """Tell how many rows of an output are not finite."""
    for array in outputs.values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            found(_rows(array))


def watched(runtime: Runtime, found: Callable[[int], None]) -> Runtime:
    """The runtime, its outputs looked at; `found` is told how many rows are not finite."""
    if isinstance(runtime, TakesParams):
        return FiniteCheckWithParams(runtime, runtime, found)
    return FiniteCheck(runtime, found)


def _rows(array: Array) -> int:
    if array.ndim == 0:
        return 1
    return int(np.count_nonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))))
