"""Rows through the model, so that one that is bad costs nobody else the answer: a batch that fails is run in halves."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelramp_server.protocol.errors import BadRequest, ModelFailed
from modelramp_server.protocol.tensors import DTYPES, Array
from modelramp_server.scoring.model import Model

Take = Callable[[int, int], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Scored:
    """Consecutive rows: their outputs, rows on the first axis; or why there are none."""

    rows: int
    outputs: dict[str, Array]
    error: str = ""


def score(model: Model, take: Take, start: int, stop: int) -> list[Scored]:
    """The rows from `start` up to `stop`, of which `take` gives the inputs, in order."""
    try:
        return [Scored(stop - start, _outputs(model, take(start, stop), stop - start))]
    except (BadRequest, ModelFailed) as error:
        if stop - start == 1:
            return [Scored(1, {}, error.message)]
        middle = (start + stop) // 2
        return score(model, take, start, middle) + score(model, take, middle, stop)


def _outputs(model: Model, inputs: dict[str, Array], rows: int) -> dict[str, Array]:
    """What was seen in the warm-up must come again, or it could not stand in one column with the rest."""
    outputs = model.run(inputs, rows)
    found: dict[str, Array] = {}
    for spec in model.seen_outputs:
        if spec.name not in outputs:
            raise ModelFailed(f"the model gave no output {spec.name!r}, which it gave in its warm-up")
        array = outputs[spec.name]
        if rows == 1 and (array.ndim == 0 or len(array) != 1):
            array = array[np.newaxis]
        wanted = DTYPES[spec.datatype]
        if array.ndim == 0 or len(array) != rows or not np.can_cast(array.dtype, wanted, "same_kind"):
            raise ModelFailed(
                f"the model's output {spec.name!r} has shape {list(array.shape)} and dtype {array.dtype} for {rows} "
                f"rows; in its warm-up it was {spec.datatype} of shape {list(spec.shape)}"
            )
        found[spec.name] = array.astype(wanted, copy=False)
    return found
