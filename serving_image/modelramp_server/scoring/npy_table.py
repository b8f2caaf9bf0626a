"""npy: rows are the first axis of an array, read from disk as they are needed; each output is an array beside it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.invocations import bind
from modelramp_server.protocol.tensors import Array, check_shape
from modelramp_server.scoring.isolate import Scored
from modelramp_server.scoring.model import Model
from modelramp_server.scoring.tables import Batch, Unreadable, prediction_names
from modelramp_server.scoring.whole import whole

FAILED = "failed"
_FAILED = "failed.npy"
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


class NpyTable:
    """One array, for a model with one input. A row that failed is zeros, or NaN, and true in `<name>.failed.npy`."""

    rows_a_part = 65536
    broken = ""

    def __init__(self, path: Path, model: Model) -> None:
        self._path = path
        self._model = model
        self._predictions = prediction_names(model)
        self._array = self._mapped()
        if len(model.inputs) != 1:
            names = ", ".join(spec.name for spec in model.inputs)
            raise Unreadable(f"the model's inputs are {names}; an array can be one of them only: use csv or parquet")
        try:
            check_shape(self._array[:1] if self._array.ndim else self._array, model.inputs[0], path.name)
        except BadRequest as error:
            raise Unreadable(error.message) from None
        self.total = len(self._array)

    def batches(self, skip: int, rows: int) -> Iterator[Batch]:
        """See Table."""
        for start in range(skip, self.total, rows):
            stop = min(start + rows, self.total)
            yield Batch(start, start + 1, stop - start, self._array[start:stop].nbytes, stop)

    def inputs(self, batch: Batch, start: int, stop: int) -> dict[str, Array]:
        """See Table."""
        rows = self._array[batch.data + start : batch.data + stop]
        return bind(None, np.array(rows), self._model.spec, "npy")

    def write(self, folder: Path, batches: Sequence[tuple[Batch, list[Scored]]]) -> None:
        """See Table."""
        parts = [one for _, scored in batches for one in scored]
        np.save(folder / _FAILED, np.concatenate([np.full(one.rows, bool(one.error)) for one in parts]))
        for number, output in enumerate(self._predictions):
            known = [one.outputs[output] for one in parts if not one.error]
            if not known:
                continue
            if len({array.shape[1:] for array in known}) > 1:
                raise _unlike(output)
            gap = _gap(known[0].dtype, (1, *known[0].shape[1:]))
            joined = np.concatenate([gap if one.error else one.outputs[output] for one in parts])
            np.save(folder / f"{number}.npy", joined.astype(str) if joined.dtype == object else joined)
        self._array = self._mapped()  # lets go of the pages that were read

    def merge(self, parts: Sequence[Path], folder: Path) -> list[str]:
        """See Table."""
        made = []
        failed = np.concatenate([np.load(part / _FAILED) for part in parts])
        if failed.any():
            made.append(self._save(folder, FAILED, [failed], [len(failed)]))
        rows = [len(np.load(part / _FAILED, mmap_mode="r")) for part in parts]
        for number, (output, name) in enumerate(self._predictions.items()):
            paths = [part / f"{number}.npy" for part in parts]
            arrays = [np.load(path, mmap_mode="r") if path.exists() else None for path in paths]
            if len({array.shape[1:] for array in arrays if array is not None}) > 1:
                raise _unlike(output)
            if not failed.all():
                made.append(self._save(folder, name, arrays, rows))
        return made

    def _mapped(self) -> Array:
        try:
            array: Array = np.load(self._path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise Unreadable(f"{self._path.name} can't be read: {error}") from None
        return array

    def _save(self, folder: Path, name: str, arrays: Sequence[Array | None], rows: Sequence[int]) -> str:
        """One array out of those of the parts, without having it in memory; None stands for rows that all failed."""
        known = [array for array in arrays if array is not None]
        file = f"{self._path.stem}.{_NOT_IN_NAMES.sub('_', name)}.npy"
        shape, dtype = (sum(rows), *known[0].shape[1:]), np.result_type(*(array.dtype for array in known))
        with whole(folder / file) as scratch:
            out = np.lib.format.open_memmap(scratch, mode="w+", dtype=dtype, shape=shape)
            start = 0
            for array, count in zip(arrays, rows, strict=True):
                out[start : start + count] = _gap(dtype, (1, *shape[1:])) if array is None else array
                start += count
            out.flush()
        return file


def _gap(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """What stands where there is no answer."""
    if dtype.kind == "O":
        return np.full(shape, "", object)
    return np.full(shape, np.nan, dtype) if dtype.kind == "f" else np.zeros(shape, dtype)


def _unlike(output: str) -> Unreadable:
    return Unreadable(f"the model's output {output!r} has another shape for some rows; use parquet")
