"""Histograms that cost a bisection and two additions. prometheus_client's walk the buckets and take locks: five times
as much, for each of several observations a request."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString


class _Cell:
    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Histogram(Collector):
    """One family. Each cell is observed from one thread only; a scrape from another may see half an observation."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._les = [*map(floatToGoString, bounds), "+Inf"]
        self._cells: dict[tuple[str, ...], dict[str, _Cell]] = {}
        registry.register(self)

    def labels(self, *values: str, thread: str = "") -> Callable[[float], None]:
        """What to call, on this thread, with each observation of the series with these labels."""
        bounds = self._bounds
        cell = self._cells.setdefault(values, {}).setdefault(thread, _Cell(len(bounds) + 1))
        counts = cell.counts

        def observe(value: float) -> None:
            counts[bisect_left(bounds, value)] += 1
            cell.total += value

        return observe

    def collect(self) -> Iterator[Metric]:
        """The family."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, cells in self._cells.items():
            counts = [sum(of_all) for of_all in zip(*(cell.counts for cell in cells.values()), strict=True)]
            total = sum(cell.total for cell in cells.values())
            family.add_metric(values, list(zip(self._les, accumulate(counts), strict=True)), total)
        yield family
