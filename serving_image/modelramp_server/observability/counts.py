"""Counters that cost an addition. prometheus_client's take a lock each time, twice for each request."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry


class Counts(Collector):
    """One family, counted and read on the event loop alone. `name` is without `_total`."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._cells: dict[tuple[str, ...], list[int]] = {}
        registry.register(self)

    def labels(self, *values: str) -> Callable[[], None]:
        """What to call once for each that the series with these labels counts."""
        cell = self._cells.setdefault(values, [0])

        def count() -> None:
            cell[0] += 1

        return count

    def collect(self) -> Iterator[Metric]:
        """The family."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, cell in self._cells.items():
            family.add_metric(values, cell[0])
        yield family
