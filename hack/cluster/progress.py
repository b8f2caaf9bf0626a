"""Shows what is being done: a line for each step when it ends, with its seconds, and one before if it is long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

PATIENCE = 3.0  # seconds after which a person wonders
WIDTH = 60


@contextmanager
def step(text: str) -> Iterator[None]:
    """Steps may overlap in threads: each line is whole."""
    started = time.monotonic()
    announcement = Timer(PATIENCE, note, [f"{text} ..."])
    announcement.start()
    outcome = "failed"
    try:
        yield
        outcome = f"{time.monotonic() - started:6.1f} s"
    finally:
        announcement.cancel()
        note(f"{text:<{WIDTH}} {outcome}")


def note(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
