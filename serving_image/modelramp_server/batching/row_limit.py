"""How many rows the next forward may take, measured while serving.

More rows in a forward raise the rows per second up to where the model is busy; from there on they only make the first
of them wait for the last. Where that is depends on model and machine, so full forwards are timed, and now and then one
of half or twice the size is tried. Only the model's thread is in here; what others read is one number.
"""

import math
from collections.abc import Mapping

from modelramp_server.batching.row_cost import WEIGHT, RowCost

_ENOUGH = 8  # timed forwards, before a size is compared
_CHOOSE_EVERY, _TRY_EVERY = 4, 32  # full pulls
_DOUBLED = 1.1  # times as many rows a second: what twice the rows must bring
_NEAR = 0.75  # of a size: what is timed as that size


class RowLimit:
    """Sizes are powers of two, and the largest allowed. Costs are seconds a row, by the clock of whoever times them;
    what is not a model's fault but takes its time (a failed batch that is run again in parts) is in them too."""

    def __init__(self, most: int, longest: float, seconds: float, costs: Mapping[int, float] | None = None) -> None:
        """
        Args:
            most: rows at most, as set and as proven in the warm-up.
            longest: seconds a forward may take, if it is more than one row.
            seconds: what a forward of `most` rows took in the warm-up.
            costs: of a row then, by the rows of its forward: what the first batches are chosen by.
        """
        self._sizes = [size for power in range(most.bit_length()) if (size := 1 << power) < most] + [most]
        self._timed_as = [0, *(self._nearest(rows) for rows in range(1, most + 1))]
        self._most = most
        self._longest = longest
        self._costs = dict(costs or {})
        self._seconds: dict[int, float] = {}
        self._timed = {size: _ENOUGH if size in self._costs else 0 for size in self._sizes}
        self._full_pulls = 0
        self._row = RowCost(seconds / most)
        self.rows = self._short_enough(worth_the_wait(self._costs) if self._costs else most)

    @property
    def seconds_per_row(self) -> float:
        """What a row takes when there is no lack of rows."""
        return self._row.seconds

    def next_pull(self) -> int:
        """Rows to stop at in the next pull."""
        pulls = self._full_pulls
        if not pulls or pulls % _TRY_EVERY:
            return self.rows
        up = (pulls // _TRY_EVERY) % 2
        at = self._sizes.index(self.rows) + (1 if up else -1)
        return self._sizes[at] if 0 <= at < len(self._sizes) else self.rows

    def observe(self, rows: int, seconds: float, cost: float, full: bool) -> None:
        """Learn from one group of jobs.

        Args:
            rows: the group's.
            seconds: until all of it was answered.
            cost: the same by the clock of costs.
            full: whether more may have waited than the pull took.
        """
        self._row.observe(seconds, rows, full)
        if rows <= self._most and (size := self._timed_as[rows]):
            self._timed[size] += 1
            _average(self._costs, size, cost / rows)
            _average(self._seconds, size, seconds / rows)
        if full:
            self._full_pulls += 1
        if seconds > self._longest or (full and self._full_pulls % _CHOOSE_EVERY == 0):
            self.rows = self._short_enough(self._best())

    def _nearest(self, rows: int) -> int:
        """The size as which so many rows are timed; 0 where they are near none."""
        size = next(size for size in self._sizes if size >= rows)
        return size if rows >= _NEAR * size else 0

    def _best(self) -> int:
        if self._timed[self.rows] < _ENOUGH:
            return self.rows
        return worth_the_wait({size: self._costs[size] for size in self._sizes if self._timed[size] >= _ENOUGH})

    def _short_enough(self, rows: int) -> int:
        at = self._sizes.index(rows)
        while at > 0 and self._sizes[at] * self._seconds.get(self._sizes[at], self.seconds_per_row) > self._longest:
            at -= 1
        return self._sizes[at]


def worth_the_wait(costs: Mapping[int, float]) -> int:
    """The rows a forward should have, by what a row takes in each: the most a second, but twice the rows, and twice the
    wait, must bring something."""
    return min(costs, key=lambda rows: costs[rows] * _DOUBLED ** math.log2(rows))


def _average(values: dict[int, float], size: int, value: float) -> None:
    before = values.get(size, value)
    values[size] = before + WEIGHT * (value - before)
