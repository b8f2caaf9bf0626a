"""What scoring asks of a table, whatever its format; and which one reads a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelramp_server.protocol.invocations import is_matrix
from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.scoring.isolate import Scored
from modelramp_server.scoring.model import Model
from modelramp_server.settings import InvalidSettings

SUFFIXES = (".csv", ".parquet", ".npy")
PREDICTION = "prediction"


class Unreadable(Exception):
    """A table that can't be scored; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as they were read. `first` is the number of the first, the table's first row being 1; `size` is in bytes,
    about; `read` is how far in the table this is, of its `total`."""

    data: Any
    first: int
    rows: int
    size: int
    read: int


class Table(Protocol):
    """A file of rows. All of it never is in memory at once. `broken`: why nothing can be read after the batches that
    there were; else empty."""

    rows_a_part: int
    total: int
    broken: str

    def batches(self, skip: int, rows: int) -> Iterator[Batch]:
        """Its rows in order but for the first `skip`, so many at a time."""

    def inputs(self, batch: Batch, start: int, stop: int) -> dict[str, Array]:
        """The model's inputs from some rows of a batch.

        Raises:
            BadRequest: they do not fit the model.
        """

    def write(self, folder: Path, batches: Sequence[tuple[Batch, list[Scored]]]) -> None:
        """Put rows and predictions into a folder of their own."""

    def merge(self, parts: Sequence[Path], folder: Path) -> list[str]:
        """Make whole files of such folders, in order; their names."""


def open_table(path: Path, model: Model, columns: Sequence[str]) -> Table:
    """The table in a file.

    Raises:
        Unreadable: the file can't be read, or is not made for this model.
        InvalidSettings: what reads it is not installed.
    """
    if path.suffix == ".npy":
        from modelramp_server.scoring.npy_table import NpyTable

        return NpyTable(path, model)
    if path.suffix == ".csv":
        from modelramp_server.scoring.csv_table import CsvTable

        return CsvTable(path, model, columns)
    try:
        from modelramp_server.scoring.parquet_table import ParquetTable
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"{path.name} needs {error.name}, which is not installed: pip install 'modelramp[scoring]'"
        ) from None
    return ParquetTable(path, model, columns)


def prediction_names(model: Model) -> dict[str, str]:
    """The columns of predictions by the names of the model's outputs."""
    names = [spec.name for spec in model.seen_outputs]
    return {names[0]: PREDICTION} if len(names) == 1 else {name: f"{PREDICTION}_{name}" for name in names}


def columns_for(model: Model, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The columns of a table that the model is to see, in its order.

    Raises:
        Unreadable: the table lacks some, or has columns where predictions are to stand.
    """
    if taken := sorted(set(names) & set(prediction_names(model).values())):
        raise Unreadable(f"the table has a column {taken[0]!r}, where the prediction is to stand; rename it")
    if missing := [name for name in wanted if name not in names]:
        raise Unreadable(f"PREDICT_COLUMNS names {missing[0]!r}; the table's columns are {', '.join(names)}")
    inputs = [spec.name for spec in model.inputs]
    if set(names) >= set(inputs) - model.spec.optional:
        return [name for name in inputs if name in names]
    offered = list(wanted or names)
    if is_matrix(model.inputs) and _width(model.inputs[0]) in (-1, len(offered)):
        return offered
    if len(inputs) == 1 and offered == ["input"]:
        return offered
    if is_matrix(model.inputs):
        raise Unreadable(
            f"the table has {len(offered)} columns, the model takes {_shape(model.inputs[0])}; "
            "PREDICT_COLUMNS (--columns) can name those that it is to see"
        )
    raise Unreadable(f"the table's columns are {', '.join(offered)}; the model's inputs are {', '.join(inputs)}")


def check_rows(model: Model) -> None:
    """Whether the model takes rows at all.

    Raises:
        Unreadable: it takes a fixed number of them other than one.
    """
    for spec in model.inputs:
        if not spec.shape or spec.shape[0] not in (-1, 1):
            raise Unreadable(
                f"the model's input {spec.name!r} has the fixed shape {list(spec.shape)}; it takes no rows"
            )


def _width(spec: TensorSpec) -> int:
    return spec.shape[1] if len(spec.shape) == 2 else 0


def _shape(spec: TensorSpec) -> str:
    return f"{spec.shape[1]}" if len(spec.shape) == 2 else f"arrays of shape {list(spec.shape[1:])}, as npy or parquet"
