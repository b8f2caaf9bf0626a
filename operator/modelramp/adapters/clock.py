"""The real time."""

import time
from datetime import UTC, datetime


class SystemClock:
    """The Clock port on the machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
