"""The file of the split: a downward-API volume, which the kubelet replaces by swapping a symbolic link."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

PERIOD = 0.1

log = logging.getLogger(__name__)


class SplitFile:
    """Tells what the file says whenever it changes. The path is opened anew each time: links may have moved."""

    def __init__(self, path: Path, told: Callable[[str | None], None]) -> None:
        self._path = path
        self._told = told
        self._seen: tuple[int, int, int] | str | None = "nothing yet"

    def poll(self) -> None:
        """Look once."""
        try:
            stat = self._path.stat()
            mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            text = self._path.read_text() if mark != self._seen else None
        except FileNotFoundError:
            mark, text = None, None
        except (OSError, UnicodeDecodeError) as error:
            log.error("%s can't be read: %s", self._path, error)
            mark, text = None, "unreadable"
        if mark != self._seen:
            self._seen = mark
            self._told(text)

    async def watch(self) -> None:
        """Look every 100 ms, for ever."""
        while True:
            self.poll()
            await asyncio.sleep(PERIOD)
