"""How many rows the next forward may take, measured while serving.

More rows in a forward raise the rows per second up to where the model is busy; from there on they only make the first
of them wait for the last. Where that is depends on model and machine, so full forwards are timed, and now and then one
of half or twice the size is tried. Only the model's thread is in here; what others read is one number.
"""

from modelramp_server.batching.row_cost import WEIGHT, RowCost

_ENOUGH = 8  # timed forwards, before a size is compared
_CHOOSE_EVERY, _TRY_EVERY = 4, 32  # full pulls
_AS_GOOD = 1.05
_NEAR = 0.75  # of a size: what is timed as that size


class RowLimit:
    """Sizes are powers of two, and the largest allowed. Costs are seconds a row; what is not a model's fault but takes
    its time (a failed batch that is run again in parts) is in them too."""

    def __init__(self, most: int, longest: float, seconds: float, one: float | None = None) -> None:
        """
        Args:
            most: rows at most, as set and as proven in the warm-up.
            longest: seconds a forward may take, if it is more than one row.
            seconds: what a forward of `most` rows took in the warm-up.
            one: what a forward of one row took then. Where so many rows gain nothing by company, the first batches
                are of one.
        """
        self._sizes = [size for power in range(most.bit_length()) if (size := 1 << power) < most] + [most]
        self._timed_as = [0, *(self._nearest(rows) for rows in range(1, most + 1))]
        self._most = most
        self._longest = longest
        self._costs: dict[int, float] = {}
        self._timed = dict.fromkeys(self._sizes, 0)
        self._full_pulls = 0
        self._row = RowCost(seconds / most)
        self.rows = self._short_enough(most)
        if one is not None and most > 1:
            self._costs = {1: one, most: self.seconds_per_row}
            self._timed |= {1: _ENOUGH, most: _ENOUGH}
            self.rows = self._short_enough(self._smallest_as_good())

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

    def observe(self, rows: int, seconds: float, full: bool) -> None:
        """Learn from one group of jobs.

        Args:
            rows: the group's.
            seconds: until all of it was answered.
            full: whether more may have waited than the pull took.
        """
        self._row.observe(seconds, rows, full)
        if rows <= self._most and (size := self._timed_as[rows]):
            cost = seconds / rows
            self._timed[size] += 1
            before = self._costs.get(size, cost)
            self._costs[size] = before + WEIGHT * (cost - before)
        if full:
            self._full_pulls += 1
        if seconds > self._longest or (full and self._full_pulls % _CHOOSE_EVERY == 0):
            self.rows = self._short_enough(self._smallest_as_good())

    def _nearest(self, rows: int) -> int:
        """The size as which so many rows are timed; 0 where they are near none."""
        size = next(size for size in self._sizes if size >= rows)
        return size if rows >= _NEAR * size else 0

    def _smallest_as_good(self) -> int:
        if self._timed[self.rows] < _ENOUGH:
            return self.rows
        known = {size: self._costs[size] for size in self._sizes if self._timed[size] >= _ENOUGH}
        best = min(known.values())
        return next(size for size, cost in known.items() if cost <= best * _AS_GOOD)

    def _short_enough(self, rows: int) -> int:
        at = self._sizes.index(rows)
        while at > 0 and self._sizes[at] * self._cost(self._sizes[at]) > self._longest:
            at -= 1
        return self._sizes[at]

    def _cost(self, size: int) -> float:
        """Of a size not yet timed, by what a row takes otherwise."""
        return self._costs.get(size, self.seconds_per_row)
