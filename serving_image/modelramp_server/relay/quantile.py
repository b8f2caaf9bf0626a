"""A recent p99: what the relay's budgets are made from."""

_KEPT = 512
_EVERY = 32


class RecentP99:
    """p99 of the last 512 durations, in seconds, sorted anew every 32; 0 before the first."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._seen = 0
        self._p99 = 0.0

    def add(self, seconds: float) -> None:
        """Take one duration."""
        if len(self._values) < _KEPT:
            self._values.append(seconds)
        else:
            self._values[self._seen % _KEPT] = seconds
        self._seen += 1
        if self._seen % _EVERY == 0 or self._seen < _EVERY:
            ordered = sorted(self._values)
            self._p99 = ordered[int(0.99 * (len(ordered) - 1))]

    @property
    def value(self) -> float:
        """Seconds."""
        return self._p99
