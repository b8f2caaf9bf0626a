"""Lines of records on stdout or in a file that is rotated, written by a thread: a slow disk delays no answer."""

import sys
import threading
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
STDOUT = "stdout"

Lost = Callable[[], None]


class LineLog:
    """JSON objects, one a line. Beyond `waiting` lines that wait to be written, further ones are lost and counted."""

    def __init__(self, target: str, waiting: int, lost: Lost) -> None:
        """`target`: a path, or `stdout`. Raises OSError: the file can't be written."""
        self._queue: Queue[LogRecord | None] = Queue(waiting)
        self._lost = lost
        self._handler: Handler = _Stdout(lost) if target == STDOUT else _File(Path(target), lost)
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def write(self, document: dict[str, object]) -> None:
        """Take a line. Never waits."""
        try:
            self._queue.put_nowait(makeLogRecord({"msg": orjson.dumps(document).decode()}))
        except Full:
            self._lost()

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
            self._handler.handle(record)


class _Stdout(StreamHandler):  # type: ignore[type-arg]
    def __init__(self, lost: Lost) -> None:
        super().__init__(sys.stdout)
        self._lost = lost

    def handleError(self, record: LogRecord) -> None:  # noqa: N802
        self._lost()


class _File(RotatingFileHandler):
    def __init__(self, path: Path, lost: Lost) -> None:
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
        self._lost = lost

    def handleError(self, record: LogRecord) -> None:  # noqa: N802
        self._lost()
