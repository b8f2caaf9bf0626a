"""A table is scored in parts, each a folder that is renamed into place when it is whole: a kill costs one part."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from modelramp_server.scoring.isolate import Scored
from modelramp_server.scoring.tables import Batch, Table
from modelramp_server.scoring.tally import Tally
from modelramp_server.scoring.whole import NEW, settle, write_json

_MOST_SECONDS = 10.0
_MOST_BYTES = 64 << 20
_TALLY, FAILURES = "tally.json", "failures.jsonl"


@dataclass
class Part:
    """Rows that are scored and not yet written."""

    first: int
    began: float = field(default_factory=time.monotonic)
    batches: list[tuple[Batch, list[Scored]]] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def add(self, batch: Batch, scored: list[Scored]) -> None:
        """One more batch."""
        self.batches.append((batch, scored))
        self.rows += batch.rows
        self.size += batch.size + sum(array.nbytes for one in scored for array in one.outputs.values())

    def full(self, most_rows: int) -> bool:
        """Whether it is time to write."""
        return self.rows >= most_rows or self.size >= _MOST_BYTES or time.monotonic() - self.began >= _MOST_SECONDS


class Parts:
    """The parts of one table in a folder; what a killed run has left half done is removed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for left in folder.glob(f"*{NEW}"):
            shutil.rmtree(left)
        self._folder = folder
        self.folders = sorted(folder.iterdir())
        self.tally = Tally()
        for part in self.folders:
            self.tally.add(Tally.read(orjson.loads((part / _TALLY).read_bytes())))

    @property
    def rows(self) -> int:
        """How many rows are done: the first ones of the table."""
        return self.tally.ok + self.tally.failed

    def write(self, part: Part, table: Table) -> None:
        """Put a part on disk, and count it."""
        target = self._folder / f"{part.first:012d}"
        scratch = target.with_name(target.name + NEW)
        scratch.mkdir()
        tally = _tally(part, scratch / FAILURES)
        table.write(scratch, part.batches)
        tally.seconds = time.monotonic() - part.began
        write_json(scratch / _TALLY, tally.as_document())
        for path in scratch.iterdir():
            settle(path)
        scratch.rename(target)
        self.folders.append(target)
        self.tally.add(tally)

    def remove(self) -> None:
        """The table is whole; the parts are not needed any more."""
        shutil.rmtree(self._folder)


def fill(parts: Parts, table: Table, batch_rows: int, score: Callable[[Batch], list[Scored]],
         tell: Callable[[Batch, Tally], bool]) -> bool:  # fmt: skip
    """Score what is missing. `tell` hears of each batch, and says whether to go on; False: not all is done."""
    part = Part(parts.rows)
    go_on = True
    for batch in table.batches(parts.rows, batch_rows):
        part.add(batch, score(batch))
        go_on = tell(batch, parts.tally)
        if part.full(table.rows_a_part):
            parts.write(part, table)
            part = Part(parts.rows)
        if not go_on:
            break
    if part.rows:
        parts.write(part, table)
    return go_on


def _tally(part: Part, failures: Path) -> Tally:
    tally = Tally()
    with failures.open("wb") as file:
        for batch, scored in part.batches:
            row = batch.first
            for one in scored:
                if one.error:
                    tally.failure(f"row {row}", one.error)
                    file.write(orjson.dumps({"row": row, "error": one.error}) + b"\n")
                else:
                    tally.answered(one.rows, one.outputs)
                row += one.rows
    return tally
