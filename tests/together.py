"""What processes of one run of tests (pytest-xdist) have in common, and how they keep out of each other's way.

Modules marked `alone` have it for themselves; those marked `kills` only shut out those marked `steady`.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
from xdist.scheduler import LoadScopeScheduling

Known = dict[str, Any]


class Lines:
    """Which process runs which modules, in which order. What stands in no line has one of its own, `rest`."""

    def __init__(self, lines: Mapping[str, Sequence[str]]) -> None:
        """`lines`: modules without their `test_`."""
        self._places = {f"test_{module}": (line, at) for line, of in lines.items() for at, module in enumerate(of)}

    def place(self, path: Path) -> tuple[str, int]:
        """To sort by."""
        return self._places.get(path.stem, ("rest", 0))

    def scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling:
        """For pytest-xdist."""
        lines = self

        class ByLine(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return lines.place(Path(nodeid.split("::")[0]))[0]

        return ByLine(config, log)


@contextmanager
def shared(path: Path, run: str, begin: Callable[[], Known], end: Callable[[Known], None]) -> Iterator[Known]:
    """The first process sets it up, the last takes it down; all know what `begin` told. `run` is xdist's name of the
    run: what another run has left behind counts for nothing."""
    with locked(path) as file:
        known = read(file, run)
        if known["users"] == 0:
            known |= begin()
        write(file, {**known, "users": known["users"] + 1})
    yield known
    with locked(path) as file:
        known = read(file, run)
        write(file, {**known, "users": known["users"] - 1})
        if known["users"] == 1:
            end(known)


@contextmanager
def turn(folder: Path, tier: str, marks: Set[str]) -> Iterator[None]:
    """Beside others, or alone."""
    with ExitStack() as stack:
        stack.enter_context(locked(folder / f"{tier}.turn", fcntl.LOCK_EX if "alone" in marks else fcntl.LOCK_SH))
        if marks & {"kills", "steady"}:
            steady = fcntl.LOCK_EX if "kills" in marks else fcntl.LOCK_SH
            stack.enter_context(locked(folder / f"{tier}.steady", steady))
        yield


def marks(request: pytest.FixtureRequest) -> set[str]:
    return {mark.name for mark in request.node.iter_markers()}


@contextmanager
def locked(path: Path, mode: int = fcntl.LOCK_EX) -> Iterator[TextIO]:
    """A file that is open for as long as it is locked."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, mode)
        file.seek(0)
        yield file


def read(file: TextIO, run: str) -> Known:
    known: Known = json.loads(file.read() or "{}")
    return known if known.get("run") == run else {"run": run, "users": 0}


def write(file: TextIO, known: Known) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(known))
