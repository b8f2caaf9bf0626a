"""CSV: cells stay as they are written, and predictions stand behind them. What is in a cell is what a request's is."""

import csv
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
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
_A_CELL = 56  # bytes of a string in memory, beside its characters
_LONGEST = 64 << 20  # characters of a cell; a quote that is never closed must not take in the whole file
_NO_END = "unexpected end of data"  # as the csv module says it

# Bytes of the file up to its end, its line, cells, and why there are none.
Row = tuple[int, int, list[str], str]


class CsvTable:
    """A file whose first line names the columns."""

    rows_a_part = 8192

    def __init__(self, path: Path, model: Model, columns: Sequence[str]) -> None:
        self._path = path
        self._model = model
        self.total = path.stat().st_size
        self.broken = ""
        header = list(islice(self._rows(), 1))
        self._names = header[0][2] if header else []
        if problem := _problems(header).get(0):
            raise Unreadable(f"{path.name}: {problem}")
        if self.broken:
            raise Unreadable(self.broken)
        if len(set(self._names)) != len(self._names) or not self._names:
            raise Unreadable(f"{path.name}: its first line must name the columns, each once")
        self._seen = columns_for(model, self._names, columns)
        self._places = [self._names.index(name) for name in self._seen]
        self._predictions = prediction_names(model)

    def batches(self, skip: int, rows: int) -> Iterator[Batch]:
        """See Table."""
        lines = islice(self._rows(), 1 + skip, None)
        first, read = 1 + skip, 0
        while chunk := list(islice(lines, rows)):
            cells = [row for _, _, row, _ in chunk]
            size = _A_CELL * len(cells) * len(self._names) + chunk[-1][0] - (read or chunk[0][0])
            read = chunk[-1][0]
            yield Batch((cells, _problems(chunk)), first, len(cells), size, read)
            first += len(cells)

    def inputs(self, batch: Batch, start: int, stop: int) -> dict[str, Array]:
        """See Table."""
        cells, problems = batch.data
        for index, problem in problems.items():
            if start <= index < stop:
                raise BadRequest(problem)
        rows = cells[start:stop]
        for number, row in enumerate(rows, start=batch.first + start):
            if len(row) != len(self._names):
                raise BadRequest(f"row {number} has {len(row)} values, there are {len(self._names)} columns")
        seen = [[row[place] for place in self._places] for row in rows]
        return bind_csv(self._seen, seen, self._model.spec, batch.first + start)

    def write(self, folder: Path, batches: Sequence[tuple[Batch, list[Scored]]]) -> None:
        """See Table."""
        width = len(self._names)
        with (folder / _ROWS).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            for batch, scored in batches:
                answers = [row for one in scored for row in self._answers(one)]
                for cells, answer in zip(batch.data[0], answers, strict=True):
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

    def _rows(self) -> Iterator[Row]:
        """Rows that are not empty, up to one that nothing can be read after. Bytes that are no UTF-8 are surrogates."""
        csv.field_size_limit(_LONGEST)
        with (
            self._path.open("rb") as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
        ):
            reader, done = csv.reader(text, strict=True), 0
            while True:
                try:
                    for cells in reader:
                        if cells:
                            yield file.tell(), done + 1, cells, ""
                        done = reader.line_num
                    return
                except csv.Error as error:
                    if reader.line_num > done + 1 or str(error) == _NO_END:
                        why = f"a quote in line {done + 1} has no end ({error})"
                        self.broken = f"{self._path.name} can't be read after line {done}: {why}"
                        return
                    done = reader.line_num
                    yield file.tell(), done, [], f"line {done} can't be read: {error}"


def _problems(rows: Sequence[Row]) -> dict[int, str]:
    """Why some can't be scored, by their places."""
    found = {place: error for place, (_, _, _, error) in enumerate(rows) if error}
    if not _is_text(chain.from_iterable(cells for _, _, cells, _ in rows)):
        bad = ((place, line) for place, (_, line, cells, _) in enumerate(rows) if not _is_text(cells))
        found.update((place, f"line {line} is not UTF-8") for place, line in bad)
    return found


def _is_text(cells: Iterable[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _cells(array: Array) -> list[str]:
    """One text a row: a number or word as it is, more of them as JSON."""
    if array.ndim > 1:
        return [orjson.dumps(as_lists(row), option=orjson.OPT_SERIALIZE_NUMPY).decode() for row in array]
    if array.dtype.kind in "fiub" and is_finite(array):
        return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY).decode()[1:-1].split(",")
    return [item if isinstance(item, str) else orjson.dumps(item).decode() for item in to_json(array)]
