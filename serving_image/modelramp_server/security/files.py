"""Files that change while the server runs: keys, key sets, certificates. Secrets are mounted by links that move."""

import asyncio
from collections.abc import Callable
from pathlib import Path

PERIOD = 1.0

Mark = tuple[int, int, int]


class ChangingFiles:
    """Calls `changed` after any of the files has become another one. What it then finds is its own business."""

    def __init__(self, paths: tuple[Path, ...], changed: Callable[[], None]) -> None:
        self._paths = paths
        self._changed = changed
        self._seen = self._marks()

    def poll(self) -> None:
        """Look once."""
        marks = self._marks()
        if marks != self._seen:
            self._seen = marks
            self._changed()

    async def watch(self) -> None:
        """Look every second, for ever."""
        while True:
            await asyncio.sleep(PERIOD)
            self.poll()

    def _marks(self) -> tuple[Mark | None, ...]:
        return tuple(_mark(path) for path in self._paths)


def _mark(path: Path) -> Mark | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
