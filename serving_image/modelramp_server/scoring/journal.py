"""What is known of each image, a line of JSON each, added when all its files are whole. A kill costs the last line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from modelramp_server.scoring.whole import whole

RESULTS = "results.jsonl"
_PARTIAL = "results.partial.jsonl"

Line = Mapping[str, Any]


class ResultJournal:
    """The results in a folder: of runs that were finished, and of one that was not. `failed`: images without an
    answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lines: dict[str, Line] = {}
        for name in (RESULTS, _PARTIAL):
            for line in _read(folder / name):
                self.lines[line["image"]] = line
        self.failed = sum("error" in line for line in self.lines.values())

    def done(self, image: str) -> bool:
        """Whether there is an answer; what failed is tried again."""
        return image in self.lines and "error" not in self.lines[image]

    def begin(self) -> None:
        """Start to write; what a kill has cut short goes, and what failed, which is tried again if it is there."""
        self.lines = {image: line for image, line in self.lines.items() if self.done(image)}
        self.failed = 0
        self._write(_PARTIAL)
        self._file = (self._folder / _PARTIAL).open("ab")

    def add(self, line: Line) -> None:
        """One more image is done."""
        self.failed += ("error" in line) - ("error" in self.lines.get(line["image"], ()))
        self.lines[line["image"]] = line
        self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Nothing comes any more."""
        self._file.close()

    def finish(self) -> None:
        """Make the results whole, in the order of the images' names."""
        self._write(RESULTS)
        (self._folder / _PARTIAL).unlink()

    def _write(self, name: str) -> None:
        with whole(self._folder / name) as scratch, scratch.open("wb") as file:
            for image in sorted(self.lines):
                file.write(orjson.dumps(self.lines[image]) + b"\n")


def _read(path: Path) -> Iterator[Line]:
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            return  # cut short
