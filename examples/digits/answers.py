"""What the clients got: one line per answer, written by traffic.py, read by whoever measures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """One answer to one client.

    sent: seconds since the epoch. took: seconds. status: of HTTP, 0 where the connection failed. version: 0 where
    no model answered. net: why stable answered in the candidate's place, or "". retries: connections that had died
    while idle and were replaced (RFC 9112, 9.3.1). error: what failed, or "".
    """

    sent: float
    took: float
    status: int
    revision: str = ""
    version: int = 0
    net: str = ""
    correct: bool = False
    retries: int = 0
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.status != 200

    @property
    def done(self) -> float:
        """When the whole answer had arrived, seconds since the epoch."""
        return self.sent + self.took

    def line(self) -> str:
        return json.dumps(self, separators=(",", ":")) + "\n"


@dataclass
class Tail:
    """Reads a growing file of answers, each line once it is whole."""

    path: Path
    _offset: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def read(self) -> list[Answer]:
        """The answers that have come since the last call; none while there is no file."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        return [Answer(*json.loads(line)) for line in lines]


@dataclass(frozen=True)
class Tally:
    """Answers, counted. accuracy: right answers per answer, None without any."""

    answers: int = 0
    right: int = 0
    failed: int = 0
    caught: int = 0
    retries: int = 0

    @property
    def accuracy(self) -> float | None:
        return self.right / self.answers if self.answers else None


def tally(answers: Iterable[Answer]) -> Tally:
    """caught: answers that stable gave in the candidate's place, whatever the reason."""
    counted = right = failed = caught = retries = 0
    for answer in answers:
        counted += 1
        right += answer.correct
        failed += answer.failed
        caught += bool(answer.net)
        retries += answer.retries
    return Tally(counted, right, failed, caught, retries)


def by_version(answers: Iterable[Answer]) -> dict[int, list[Answer]]:
    """Answers by the version whose model gave them."""
    sides: dict[int, list[Answer]] = {}
    for answer in answers:
        if answer.version:
            sides.setdefault(answer.version, []).append(answer)
    return dict(sorted(sides.items()))
