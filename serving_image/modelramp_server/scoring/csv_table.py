"""CSV: cells stay as they are written, and predictions stand behind them. What is in a cell is what a request's is."""

import csv
import io
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import orjson

from modelramp_server.protocol.errors import BadRequest
from modelramp_server.protocol.invocations import as_lists, bind_csv
from modelramp_server.protocol.tensors import Array, is_finite, to_json
from modelramp_server.scoring.isolate import Scored
from modelramp_server.scoring.model import Model
from modelramp_server.scoring.tables import Batch, Unreadable, columns_for, prediction_names
from modelramp_server.scoring.whole import whole

_ROWS = "rows.csv"
_A_CELL = 56  # bytes of a short string in memory


class CsvTable:
    """A file whose first line names the columns."""

    rows_a_part = 8192

    def __init__(self, path: Path, model: Model, columns: Sequence[str]) -> None:
        self._path = path
        self._model = model
        self.total = path.stat().st_size
        self._names = next(self._lines(), (0, []))[1]
        if len(set(self._names)) != len(self._names) or not self._names:
            raise Unreadable(f"{path.name}: its first line must name the columns, each once")
        self._seen = columns_for(model, self._names, columns)
        self._places = [self._names.index(name) for name in self._seen]
        self._predictions = prediction_names(model)

    def batches(self, skip: int, rows: int) -> Iterator[Batch]:
        """See Table."""
        lines = islice(self._lines(), 1 + skip, None)
        first = 1 + skip
        while chunk := list(islice(lines, rows)):
            cells = [line for _, line in chunk]
            yield Batch(cells, first, len(cells), _A_CELL * len(cells) * len(self._names), chunk[-1][0])
            first += len(cells)

    def inputs(self, batch: Batch, start: int, stop: int) -> dict[str, Array]:
        """See Table."""
        rows = batch.data[start:stop]
        for number, row in enumerate(rows, start=batch.first + start):
            if len(row) != len(self._names):
                raise BadRequest(f"row {number} has {len(row)} values, there are {len(self._names)} columns")
        seen = [[row[place] for place in self._places] for row in rows]
        return bind_csv(self._seen, seen, self._model.spec, batch.first + start)

    def write(self, folder: Path, batches: Sequence[tuple[Batch, list[Scored]]]) -> None:
        """See Table."""
        width = len(self._names)
        with (folder / _ROWS).open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            for batch, scored in batches:
                answers = [row for one in scored for row in self._answers(one)]
                for cells, answer in zip(batch.data, answers, strict=True):
                    out.writerow([*cells[:width], *[""] * (width - len(cells)), *answer])

    def merge(self, parts: Sequence[Path], folder: Path) -> list[str]:
        """See Table."""
        with whole(folder / self._path.name) as scratch, scratch.open("wb") as file:
            head = io.StringIO()
            csv.writer(head, lineterminator="\n").writerow([*self._names, *self._predictions.values()])
            file.write(head.getvalue().encode())
            for part in parts:
                with (part / _ROWS).open("rb") as rows:
                    shutil.copyfileobj(rows, file)
        return [self._path.name]

    def _answers(self, scored: Scored) -> Iterator[Sequence[str]]:
        if scored.error:
            return iter([[""] * len(self._predictions)])
        return zip(*(_cells(scored.outputs[name]) for name in self._predictions), strict=True)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Lines that are not empty, each with the bytes read so far."""
        with self._path.open("rb") as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            try:
                for line in reader:
                    if line:
                        yield file.tell(), line
            except (csv.Error, UnicodeDecodeError) as error:
                raise Unreadable(f"{self._path.name} can't be read after line {reader.line_num}: {error}") from None


def _cells(array: Array) -> list[str]:
    """One text a row: a number or word as it is, more of them as JSON."""
    if array.ndim > 1:
        return [orjson.dumps(as_lists(row), option=orjson.OPT_SERIALIZE_NUMPY).decode() for row in array]
    if array.dtype.kind in "fiub" and is_finite(array):
        return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY).decode()[1:-1].split(",")
    return [item if isinstance(item, str) else orjson.dumps(item).decode() for item in to_json(array)]
