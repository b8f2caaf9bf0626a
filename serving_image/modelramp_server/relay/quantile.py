"""A recent p99: what the relay's budgets are made from."""

_KEPT = 512
_EVERY = 32


class RecentP99:
    """p99 of the last 512 durations, in seconds, sorted anew for who asks after 32 more; 0 before the first."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._seen = self._sorted = 0
        self._p99 = 0.0

    def add(self, seconds: float) -> None:
        """Take one duration."""
        if len(self._values) < _KEPT:
            self._values.append(seconds)
        else:
            self._values[self._seen % _KEPT] = seconds
        self._seen += 1

    @property
    def value(self) -> float:
        """Seconds."""
        if self._seen - self._sorted >= (_EVERY if self._sorted >= _EVERY else 1):
            ordered = sorted(self._values)
            self._p99, self._sorted = ordered[int(0.99 * (len(ordered) - 1))], self._seen
        return self._p99
