"""Warm-up: inputs made from what the model declares, forwards before ready, and the proof that batching is safe.

Batches are formed only if f(concat) = concat(f) held here, at 1, 2 and the largest batch: exports with a static
batch of 1 whose signature says -1 exist, and so do models that normalise across rows.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelramp_server.batching.forward import concatenated
from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec, datatype_of
from modelramp_server.runtime.base import Runtime, WarmupFailed

_FREE_SIZE = 1
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}

Inputs = dict[str, Array]
Outputs = dict[str, Array]

log = logging.getLogger(__name__)


def warm_up(
    runtime: Runtime, example: Path | None, forwards: int, batch_size: int
) -> tuple[int, tuple[TensorSpec, ...]]:
    """Run the model until it is warm and learn how it may be batched.

    Returns:
        The rows that one forward may take (1: no batching), and the outputs as the model gave them.

    Raises:
        WarmupFailed: every input tried made the model raise.
    """
    tried = _tried(runtime, _row_variants(runtime.inputs, example))
    for _ in range(forwards - 1):
        runtime.predict(tried[0][0])
    rows = _safe_batch(runtime, tried, batch_size)
    if rows < batch_size:
        log.warning("batching is off: the model takes no batches, or answers them unlike their rows")
    return rows, tuple(_output_spec(name, array) for name, array in tried[0][1].items())


def _row_variants(specs: Sequence[TensorSpec], example: Path | None) -> list[Inputs]:
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
        return np.full(shape, "", dtype=object)
    if fill == "noise":
        return noise.random(shape).astype(dtype) if dtype.kind == "f" else noise.integers(0, 2, shape).astype(dtype)
    return np.full(shape, 0 if fill == "zeros" else 1, dtype=dtype)


def _tried(runtime: Runtime, variants: list[Inputs]) -> list[tuple[Inputs, Outputs]]:
    """The variants that work and are of one shape, each with its answer."""
    working: list[tuple[Inputs, Outputs]] = []
    failure: Exception | None = None
    for variant in variants:
        try:
            outputs = runtime.predict(variant)
        except Exception as error:
            failure = failure or error
        else:
            if not working or _shapes(variant) == _shapes(working[0][0]):
                working.append((variant, outputs))
    if not working:
        text = (str(failure).strip() or type(failure).__name__).splitlines()[0][:500]
        raise WarmupFailed(f"the model failed on every warm-up input made from its declared inputs: {text}")
    return working


def _shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    return [array.shape for array in inputs.values()]


def _safe_batch(runtime: Runtime, tried: list[tuple[Inputs, Outputs]], batch_size: int) -> int:
    if batch_size == 1 or not all(spec.shape and spec.shape[0] == -1 for spec in runtime.inputs):
        return 1
    for rows in sorted({1, 2, batch_size}):
        if not _equivalent(runtime, [tried[index % len(tried)] for index in range(rows)]):
            return 1
    return batch_size


def _equivalent(runtime: Runtime, picked: list[tuple[Inputs, Outputs]]) -> bool:
    try:
        together = runtime.predict(concatenated([inputs for inputs, _ in picked]))
        apart = concatenated([outputs for _, outputs in picked])
    except Exception:
        return False
    return together.keys() == apart.keys() and all(
        together[name].shape == apart[name].shape and _close(together[name], apart[name]) for name in together
    )


def _close(one: Array, other: Array) -> bool:
    if one.dtype.kind == "f":
        return bool(np.allclose(one, other, equal_nan=True, **_TOLERANCE))
    return bool(np.array_equal(one, other))


def _output_spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, datatype_of(array), (-1, *array.shape[1:]))
