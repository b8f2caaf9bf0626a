"""Bad answers (or failed ones: bad and refused) per second over the last hour: what their index of dispersion, variance
over mean, is made from."""

from collections import deque

WINDOW = 3600


class BadWindow:
    """One entry a second, at most an hour of them. Times are of the monotonic clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._first = int(now)
        self._bad: deque[tuple[int, int]] = deque()

    def add(self, now: float) -> None:
        """Count one bad answer."""
        second = int(now)
        if self._bad and self._bad[-1][0] == second:
            self._bad[-1] = (second, self._bad[-1][1] + 1)
        else:
            self._bad.append((second, 1))
            self._drop(second)

    def read(self, now: float) -> tuple[int, int, int]:
        """Seconds seen, sum of bad answers, sum of the squares of each second's bad answers."""
        self._drop(int(now))
        counts = [count for _, count in self._bad]
        return min(WINDOW, int(now) - self._first + 1), sum(counts), sum(count * count for count in counts)

    def _drop(self, second: int) -> None:
        while self._bad and self._bad[0][0] <= second - WINDOW:
            self._bad.popleft()
