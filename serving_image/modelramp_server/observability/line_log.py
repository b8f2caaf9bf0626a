"""Lines of records on stdout or in a file that is rotated, written by a thread: a slow disk delays no answer."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging import Handler, LogRecord, StreamHandler, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from queue import Full, Queue

import orjson

FILE_BYTES = 100 * 1024 * 1024
FILES_KEPT = 5
LAST_LINES = 3.0  # seconds for lines that wait to be written when the server ends
LOOK_EVERY = 1.0  # seconds between looks at whether a file still is where it was
STDOUT = "stdout"

Lost = Callable[[], None]

log = logging.getLogger(__name__)


class LineLog:
    """JSON objects, one a line. Beyond `waiting` lines that wait to be written, further ones are lost and counted."""

    def __init__(self, target: str, waiting: int, lost: Lost) -> None:
        """`target`: a path, or `stdout`. Raises OSError: the file can't be written."""
        self._queue: Queue[LogRecord | None] = Queue(waiting)
        self._target = target
        self._lost = lost
        self._losing = False
        self._handler: Handler = _Stdout(sys.stdout) if target == STDOUT else _File(Path(target))
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def write(self, document: dict[str, object]) -> None:
        """Take a line. Never waits."""
        try:
            self._queue.put_nowait(makeLogRecord({"msg": orjson.dumps(document).decode()}))
        except Full:
            self._lose("the disk does not keep up")

    def close(self) -> None:
        """Write what waits, as far as that is possible in a few seconds."""
        with suppress(Full):
            self._queue.put(None, timeout=LAST_LINES)
        self._thread.join(LAST_LINES)
        if not self._thread.is_alive():
            with suppress(OSError):
                self._handler.close()

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                self._handler.handle(record)
            except Exception as error:
                self._lose(str(error))
                continue
            if self._losing and self._queue.empty():
                self._losing = False
                log.info("lines for %s are written again", self._target)

    def _lose(self, why: str) -> None:
        """Count a line. Only the first of many is told of."""
        self._lost()
        if not self._losing:
            self._losing = True
            log.warning("lines for %s are lost from now on: %s", self._target, why)


class _Stdout(StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: LogRecord) -> None:  # noqa: N802
        """Called by emit."""
        raise


class _File(RotatingFileHandler):
    """Goes on in a new file where somebody has moved or removed the one it had."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
        self._looked = time.monotonic()

    def shouldRollover(self, record: LogRecord) -> int:  # noqa: N802
        """Called by emit."""
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            if not self._in_place():
                self.close()  # what is closed is opened anew
        return super().shouldRollover(record)

    def handleError(self, record: LogRecord) -> None:  # noqa: N802
        """Called by emit."""
        raise

    def _in_place(self) -> bool:
        if self.stream is None:
            return False
        try:
            return os.path.samestat(Path(self.baseFilename).stat(), os.fstat(self.stream.fileno()))
        except OSError:
            return False
