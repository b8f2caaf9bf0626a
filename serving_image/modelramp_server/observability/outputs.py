"""Watches what the model says for numbers that are none: NaN and infinities are answered as they are, and counted."""

from collections.abc import Callable, Mapping

import numpy as np

from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import Runtime


class FiniteCheck:
    """A runtime, and a count of the rows that hold what is not finite. Looks once a forward, not once a request."""

    def __init__(self, runtime: Runtime, found: Callable[[int], None]) -> None:
        self.name = runtime.name
        self.device = runtime.device
        self.inputs = runtime.inputs
        self.outputs = runtime.outputs
        self.named_outputs = runtime.named_outputs
        self._predict = runtime.predict
        self._found = found

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the runtime says."""
        outputs = self._predict(inputs)
        for array in outputs.values():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self._found(_rows(array))
        return outputs


def _rows(array: Array) -> int:
    if array.ndim == 0:
        return 1
    return int(np.count_nonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))))
