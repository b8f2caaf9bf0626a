"""Warm-up: inputs made from what the model declares, forwards before ready, and the proof that batching is safe.

Batches are formed only if f(concat) = concat(f) held here, at 1, 2 and the largest batch: exports with a static
batch of 1 whose signature says -1 exist, and so do models that normalise across rows. Where the largest batch does not
work (memory, as a rule), half of it is tried. Rows that are all alike prove nothing.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modelramp_server.batching.few_threads import use_few_threads
from modelramp_server.batching.forward import concatenated, row_costs, seconds
from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec, datatype_of
from modelramp_server.runtime.base import ModelProblem, Runtime, WarmupFailed, computes_here, with_type

_FREE_SIZE = 1
_TIMED, _TIMED_UP_TO = 3, 1.0  # forwards of a size, where the largest batch takes less than so many seconds
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}
_HALF_TOLERANCE = {"rtol": 1e-2, "atol": 1e-3}
_TEXTS = {"zeros": "", "ones": "a", "noise": "a noise"}

Inputs = dict[str, Array]
Outputs = dict[str, Array]
_Tried = tuple[Inputs, Outputs]

log = logging.getLogger(__name__)


class Warm(NamedTuple):
    """What the warm-up found: rows that one forward may take (1: no batching), outputs as the model gave them, the
    seconds of a warm forward of so many rows, what a row takes in one of so many and alone (CPU time, where it computes
    here; nothing where that would take long), whether the model fails on more than one row, and the threads that each
    forward is spread over."""

    rows: int
    outputs: tuple[TensorSpec, ...]
    seconds: float
    costs: Mapping[int, float]
    one_row: bool
    threads: int


def warm_up(runtime: Runtime, example: Path | None, forwards: int, batch_size: int, threads: int = 1) -> Warm:
    """Run the model until it is warm and learn how it may be batched.

    Args:
        example: a file of rows that the model takes.
        forwards: to warm up.
        batch_size: rows at most in a forward.
        threads: that a forward is spread over, where an event loop needs some of their CPUs.

    Raises:
        WarmupFailed: every input tried made the model raise.
        ModelProblem: the runtime says what the image lacks.
    """
    tried = _tried(runtime, row_variants(runtime.inputs, example))
    for _ in range(forwards - 1):
        runtime.predict(tried[0][0])
    rows, reason = _safe_batch(runtime, tried, batch_size)
    if reason:
        log.warning("up to %d rows a forward, not %d: %s", rows, batch_size, reason)
    batch = [inputs for inputs, _ in _picked(tried, rows)]
    threads = use_few_threads(runtime, batch, threads)
    took = seconds(runtime, batch)
    clock = time.thread_time if computes_here(runtime) else time.monotonic
    costs = row_costs(runtime, batch, _TIMED, min, clock) if took < _TIMED_UP_TO else {}
    outputs = tuple(_output_spec(name, array) for name, array in tried[0][1].items())
    one_row = rows == 1 and not _takes_rows(runtime, tried)
    return Warm(rows, outputs, took, costs, one_row, threads)


def _takes_rows(runtime: Runtime, tried: list[_Tried]) -> bool:
    """Whether two rows in one request work where the declared inputs allow them; what they answer is the model's."""
    if not all(spec.shape and spec.shape[0] == -1 for spec in runtime.inputs):
        return True
    try:
        runtime.predict(concatenated([inputs for inputs, _ in _picked(tried, 2)]))
    except Exception as error:
        log.warning("the model declares any number of rows and takes one; rows are run one by one: %s", error)
        return False
    return True


def row_variants(specs: Sequence[TensorSpec], example: Path | None) -> list[Inputs]:
    """One-row inputs: the logged example's rows first, then zeros, ones and seeded noise."""
    variants = _example_rows(specs, example)
    noise = np.random.default_rng(0)
    for fill in ("zeros", "ones", "noise", "noise"):
        variants.append({spec.name: _filled(spec, fill, noise) for spec in specs})
    return variants


def _example_rows(specs: Sequence[TensorSpec], example: Path | None) -> list[Inputs]:
    if example is None or len(specs) != 1 or not example.is_file():
        return []
    spec = specs[0]
    try:
        array = np.asarray(json.loads(example.read_text())).astype(DTYPES[spec.datatype])
    except (ValueError, TypeError, OSError):
        return []
    if array.ndim != len(spec.shape):
        return []
    return [{spec.name: array[index : index + 1]} for index in range(min(len(array), 4))]


def _filled(spec: TensorSpec, fill: str, noise: np.random.Generator) -> Array:
    shape = tuple(_FREE_SIZE if size < 0 else size for size in spec.shape)
    dtype = DTYPES[spec.datatype]
    if spec.datatype == "BYTES":
        return np.full(shape, _TEXTS[fill], dtype=object)
    if fill == "noise":
        return noise.random(shape).astype(dtype) if dtype.kind == "f" else noise.integers(0, 2, shape).astype(dtype)
    return np.full(shape, 0 if fill == "zeros" else 1, dtype=dtype)


def _tried(runtime: Runtime, variants: list[Inputs]) -> list[_Tried]:
    """The variants that work and are of one shape, each with its answer."""
    working: list[_Tried] = []
    failure: Exception | None = None
    for variant in variants:
        try:
            outputs = runtime.predict(variant)
        except ModelProblem:
            raise
        except Exception as error:
            failure = failure or error
        else:
            if not working or _shapes(variant) == _shapes(working[0][0]):
                working.append((variant, outputs))
    if not working:
        assert failure is not None
        raise WarmupFailed(
            f"the model failed on every warm-up input made from its declared inputs: {with_type(failure)}"
        )
    return working


def _shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    return [array.shape for array in inputs.values()]


def _safe_batch(runtime: Runtime, tried: list[_Tried], batch_size: int) -> tuple[int, str]:
    """Rows that may be batched, and why not as many as asked for."""
    if batch_size == 1:
        return 1, ""
    if not all(spec.shape and spec.shape[0] == -1 for spec in runtime.inputs):
        return 1, "the model's inputs have a fixed number of rows"
    if all(_alike(inputs, tried[0][0]) for inputs, _ in tried):
        return 1, "only one input is known to work, which proves nothing of batches; log two different rows as example"
    reason = next((reason for rows in (1, 2) if (reason := _difference(runtime, _picked(tried, rows)))), "")
    if reason:
        return 1, reason
    rows = batch_size
    while rows > 2 and (found := _difference(runtime, _picked(tried, rows))):
        rows, reason = rows // 2, found
    return rows, reason


def _picked(tried: list[_Tried], rows: int) -> list[_Tried]:
    return [tried[index % len(tried)] for index in range(rows)]


def _difference(runtime: Runtime, picked: list[_Tried]) -> str:
    """What is wrong with the rows' answer as a batch, beside their own; "" where nothing is."""
    rows = len(picked)
    try:
        together = runtime.predict(concatenated([inputs for inputs, _ in picked]))
        apart = concatenated([outputs for _, outputs in picked])
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return f"it fails on {rows} rows ({text})"
    if together.keys() != apart.keys() or any(together[name].shape != apart[name].shape for name in together):
        return f"its outputs for {rows} rows have another shape"
    unlike = [name for name in together if not _close(together[name], apart[name])]
    return f"its output {unlike[0]!r} for {rows} rows is not that of each row" if unlike else ""


def _alike(one: Inputs, other: Inputs) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def _close(one: Array, other: Array) -> bool:
    if one.dtype.kind == "f":
        tolerance = _HALF_TOLERANCE if one.dtype == np.float16 else _TOLERANCE
        return bool(np.allclose(one, other, equal_nan=True, **tolerance))
    return bool(np.array_equal(one, other))


def _output_spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, datatype_of(array), (-1, *array.shape[1:]))
