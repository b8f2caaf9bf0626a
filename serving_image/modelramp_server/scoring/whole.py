"""Files that are whole or not there: written beside their place, forced to disk, and renamed into it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

NEW = ".new"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write instead of `path`; it takes its place when the block has ended well."""
    scratch = path.with_name(path.name + NEW)
    yield scratch
    settle(scratch)
    scratch.replace(path)


def settle(path: Path) -> None:
    """Force a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, document: Any) -> None:
    """Replace a JSON file."""
    with whole(path) as scratch:
        scratch.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
