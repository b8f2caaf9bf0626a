"""How often each class was predicted, and how surely, by side and attempt: two series of docs/contract.md.

A collector of its own: label look-ups and one observation at a time cost more than the two additions it takes.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from modelramp_server.prediction import Prediction

MOST_CLASSES = 32
OTHER = "other"
MOST_SERIES = 8
"""Pairs of a side and an attempt that are kept; the oldest goes first."""
BOUNDS = tuple(tenth / 10 for tenth in range(1, 11))

Key = tuple[str, str, str]  # side, target, salt


class Tally:
    """The counts of one side in one attempt."""

    __slots__ = ("classes", "confidence", "total")

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self.confidence = [0] * len(BOUNDS)
        self.total = 0.0


class Predictions(Collector):
    """Counts on the event loop, and is read there. `own` are the values of the labels model, version, revision."""

    def __init__(self, own: tuple[str, str, str]) -> None:
        self._own = own
        self._known: set[str] = set()
        self._tallies: dict[Key, Tally] = {}

    def add(self, side: str, target: str, salt: str, prediction: Prediction) -> None:
        """Count one answer. Classes beyond the first that this pod has seen, of either side, are `other`."""
        tally = self._tallies.get((side, target, salt)) or self._new((side, target, salt))
        name = prediction.name
        if name not in self._known:
            if len(self._known) < MOST_CLASSES:
                self._known.add(name)
            else:
                name = OTHER
        tally.classes[name] = tally.classes.get(name, 0) + 1
        if prediction.confidence is not None:
            tally.confidence[min(bisect_left(BOUNDS, prediction.confidence), len(BOUNDS) - 1)] += 1
            tally.total += prediction.confidence

    def collect(self) -> Iterator[Metric]:
        """The two series."""
        labels = ("model", "version", "revision", "side", "target", "salt")
        classes = CounterMetricFamily(
            "modelramp_predictions", "Answers by the class they predict", labels=(*labels, "class")
        )
        confidence = HistogramMetricFamily("modelramp_prediction_confidence", "Largest probability", labels=labels)
        for key, tally in self._tallies.items():
            for name, count in tally.classes.items():
                classes.add_metric((*self._own, *key, name), count)
            if any(tally.confidence):
                cumulative = list(accumulate(tally.confidence))
                buckets = [(str(bound), count) for bound, count in zip(BOUNDS, cumulative, strict=True)]
                confidence.add_metric((*self._own, *key), [*buckets, ("+Inf", cumulative[-1])], tally.total)
        yield classes
        yield confidence

    def _new(self, key: Key) -> Tally:
        attempts = [each for each in self._tallies if each[2]]
        if len(attempts) >= MOST_SERIES:
            del self._tallies[attempts[0]]
        self._tallies[key] = Tally()
        return self._tallies[key]
