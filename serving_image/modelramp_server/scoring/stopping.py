"""Ctrl-C and SIGTERM end the work after the batch in hand; a second one ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The work was ended before its end; the message says how far it is."""


class Stop:
    """Whether somebody asked for it."""

    asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler of signals."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Handle the signals while the block runs."""
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
