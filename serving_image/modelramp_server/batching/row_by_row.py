"""A model that takes one row at a time, though it declares any number: mlflow's pt2 export of a one-row example is one.

Who sends three rows gets three answers; the metadata promised it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from modelramp_server.batching.forward import concatenated
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import Around, TakesParams


class RowByRow(Around):
    """A runtime whose rows are run one after the other."""

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One forward for each row."""
        return _each_row(inputs, self._runtime.predict)

    def predict_with(self, inputs: Mapping[str, Array], params: Mapping[str, Any]) -> dict[str, Array]:
        """The same with params, where the runtime takes them."""
        runtime = self._runtime
        if not isinstance(runtime, TakesParams):
            return self.predict(inputs)
        return _each_row(inputs, lambda row: runtime.predict_with(row, params))


def _each_row(inputs: Mapping[str, Array], call: Callable[[Mapping[str, Array]], dict[str, Array]]) -> dict[str, Array]:
    rows = len(next(iter(inputs.values())))
    return concatenated([call({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(rows)])
