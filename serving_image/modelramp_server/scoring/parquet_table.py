"""Parquet: columns as they are, and predictions behind them; outputs of several numbers are lists."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from modelramp_server.protocol.invocations import bind, is_matrix
from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec, as_text
from modelramp_server.scoring.isolate import Scored
from modelramp_server.scoring.model import Model
from modelramp_server.scoring.tables import Batch, Unreadable, columns_for, prediction_names
from modelramp_server.scoring.whole import whole

_ROWS = "rows.parquet"


class ParquetTable:
    """One file, read and written batch by batch."""

    rows_a_part = 65536

    def __init__(self, path: Path, model: Model, columns: Sequence[str]) -> None:
        self._path = path
        self._model = model
        try:
            self._file = parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        self.broken = ""
        table = self._file.schema_arrow
        self.total = self._file.metadata.num_rows
        self._seen = columns_for(model, table.names, columns)
        self._by_name = not is_matrix(model.inputs) or self._seen in ([model.inputs[0].name], ["input"])
        self._predictions = prediction_names(model)
        fields = [pyarrow.field(self._predictions[spec.name], _type(spec)) for spec in model.seen_outputs]
        self._schema = pyarrow.schema([*table, *fields], metadata=table.metadata)

    def batches(self, skip: int, rows: int) -> Iterator[Batch]:
        """See Table."""
        done, group = 0, 0
        while group < self._file.num_row_groups and done + (size := self._group_rows(group)) <= skip:
            done, group = done + size, group + 1
        groups = range(group, self._file.num_row_groups)
        try:
            for batch in self._file.iter_batches(rows, row_groups=groups):
                left = batch.slice(max(0, skip - done))
                done += batch.num_rows
                if left.num_rows:
                    yield Batch(left, done - left.num_rows + 1, left.num_rows, left.nbytes, done)
        except (pyarrow.ArrowException, OSError) as error:
            self.broken = str(_unreadable(self._path, error))

    def inputs(self, batch: Batch, start: int, stop: int) -> dict[str, Array]:
        """See Table."""
        rows = batch.data.slice(start, stop - start)
        columns = {name: _values(rows.column(name)) for name in self._seen}
        if self._by_name:
            return bind(columns, None, self._model.spec, "parquet")
        return bind(None, np.column_stack(list(columns.values())), self._model.spec, "parquet")

    def write(self, folder: Path, batches: Sequence[tuple[Batch, list[Scored]]]) -> None:
        """See Table."""
        rows = pyarrow.Table.from_batches([batch.data for batch, _ in batches])
        scored = [one for _, found in batches for one in found]
        predictions = [_column(scored, spec) for spec in self._model.seen_outputs]
        table = pyarrow.Table.from_arrays([*rows.combine_chunks().columns, *predictions], schema=self._schema)
        parquet.write_table(table, folder / _ROWS)

    def merge(self, parts: Sequence[Path], folder: Path) -> list[str]:
        """See Table."""
        with whole(folder / self._path.name) as scratch, parquet.ParquetWriter(scratch, self._schema) as out:
            for part in parts:
                out.write_table(parquet.read_table(part / _ROWS, schema=self._schema))
        return [self._path.name]

    def _group_rows(self, group: int) -> int:
        return int(self._file.metadata.row_group(group).num_rows)


def _values(column: Any) -> Any:
    """An array of numbers, or a list with None where there is nothing."""
    kind = column.type
    plain = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
    if plain and not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()


def _type(spec: TensorSpec) -> Any:
    kind = pyarrow.string() if spec.datatype == "BYTES" else pyarrow.from_numpy_dtype(DTYPES[spec.datatype])
    for _ in spec.shape[1:]:
        kind = pyarrow.list_(kind)
    return kind


def _column(scored: Sequence[Scored], spec: TensorSpec) -> Any:
    """Answers of one output, null where there are none."""
    kind = _type(spec)
    chunks = [pyarrow.nulls(1, kind) if one.error else _lists(one.outputs[spec.name]) for one in scored]
    return pyarrow.chunked_array(chunks, kind).combine_chunks()


def _lists(array: Array) -> Any:
    flat = array.ravel()
    values = pyarrow.array([as_text(item) for item in flat.tolist()] if array.dtype == object else flat)
    for axis in range(array.ndim - 1, 0, -1):
        rows = math.prod(array.shape[:axis])
        values = pyarrow.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * array.shape[axis], values)
    return values


def _unreadable(path: Path, error: Exception) -> Unreadable:
    return Unreadable(f"{path.name} can't be read: {str(error).splitlines()[0][:300]}")
