"""How far it is: a bar on a terminal, else a line in the log now and then."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

log = logging.getLogger("modelramp_server")


class Lines:
    """A line in the log every ten seconds."""

    every = 10.0

    def __init__(self, total: int, noun: str) -> None:
        self._total = total
        self._noun = noun
        self._told = self._began = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left to say."""

    def tell(self, read: int, done: int, failed: int) -> None:
        """So much of the total is read; so many are done by this run, so many failed in all."""
        now = time.monotonic()
        if now - self._told >= self.every:
            self._told = now
            self._show(read, text(read / max(1, self._total), done, failed, now - self._began, self._noun))

    def _show(self, read: int, line: str) -> None:
        log.info("%s", line)


class Bar(Lines):
    """A bar of rich on stderr."""

    every = 0.1

    def __init__(self, total: int, noun: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(total, noun)
        columns: list[Any] = [BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()]
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5)
        self._task = self._bar.add_task(text(0, 0, 0, 0, noun), total=total)

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _show(self, read: int, line: str) -> None:
        self._bar.update(self._task, completed=read, description=line)


def progress(total: int, noun: str) -> Lines:
    """What fits where stderr goes to."""
    if sys.stderr.isatty():
        try:
            return Bar(total, noun)
        except ModuleNotFoundError:
            log.info("for a bar here: pip install 'modelramp[scoring]'")
    return Lines(total, noun)


def text(share: float, done: int, failed: int, seconds: float, noun: str) -> str:
    """The line."""
    rate = f", {done / seconds:,.0f} {noun}/s" if seconds > 0 and done else ""
    bad = f", {failed:,} failed" if failed else ""
    return f"{share:.0%}, {done:,} {noun}{bad}{rate}"
