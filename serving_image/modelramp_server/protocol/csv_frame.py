"""A frame as CSV (`text/csv`), as `DataFrame.to_csv(index=False)` writes it: the first line names the columns.

Cells become numbers as JSON has them, so that a value means the same in every form of a request.
"""

import csv
import io
import sys
from typing import Any

import orjson

from modelramp_server.protocol.errors import BadRequest

_NAN = ("", "NaN", "nan")

Rows = list[list[str]]


def read(body: bytes) -> tuple[list[str], Rows]:
    """Names and cells; empty lines are skipped.

    Raises:
        BadRequest: not UTF-8, no CSV, a column twice, rows of other lengths, or no rows.
    """
    csv.field_size_limit(sys.maxsize)  # a cell may be as long as a body
    try:
        lines = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if line]
    except UnicodeDecodeError:
        raise BadRequest("csv: the body is not UTF-8") from None
    except csv.Error as error:
        raise BadRequest(f"csv: the body can't be read: {error}") from None
    if len(lines) < 2:
        raise BadRequest("csv: the body must have a line of column names and at least one row")
    names, rows = lines[0], lines[1:]
    if len(set(names)) != len(names):
        raise BadRequest("csv: column names must be distinct")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise BadRequest(f"csv: row {number} has {len(row)} values, there are {len(names)} columns")
    return names, rows


def typed(cells: list[str], datatype: str, where: str, gaps: bool = False) -> list[Any]:
    """Cells of one column, or of one row, as JSON would have them. An empty one is null with `gaps`, and among floats,
    where NaN is too.

    Raises:
        BadRequest: a cell that is no number, or no boolean.
    """
    if datatype == "BYTES":
        return [cell or None for cell in cells] if gaps else list(cells)
    if datatype.startswith("FP"):
        cells = ["null" if cell in _NAN else cell for cell in cells]
    elif gaps:
        cells = [cell or "null" for cell in cells]
    if datatype == "BOOL":
        cells = [cell.strip().lower() for cell in cells]
    try:
        values: list[Any] = orjson.loads(f"[{','.join(cells)}]")
    except orjson.JSONDecodeError:
        values = []
    if len(values) != len(cells):
        wrong = next((cell for cell in cells if not _is_value(cell)), "")
        raise BadRequest(f"{where}: {wrong[:50]!r} is no {datatype}{'' if wrong else '; it may not lack values'}")
    return values


def _is_value(cell: str) -> bool:
    try:
        return not isinstance(orjson.loads(cell), list | dict)
    except orjson.JSONDecodeError:
        return False
