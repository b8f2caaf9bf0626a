"""What is counted while rows or images are scored, over all runs that it took; the summary is made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelramp_server.protocol.tensors import Array

_MOST_CLASSES = 1000
_OTHER = "other"
_SHOWN = 10
_SUMS_TO_ONE = 0.01


@dataclass(slots=True)
class Tally:
    """Counts, seconds of computing, and the first few failures as `what: why`."""

    ok: int = 0
    failed: int = 0
    not_finite: int = 0
    seconds: float = 0.0
    classes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def answered(self, rows: int, outputs: Mapping[str, Array]) -> None:
        """Rows that the model answered."""
        self.ok += rows
        self._count(class_names(outputs))
        bad = np.zeros(rows, bool)
        for array in outputs.values():
            if array.dtype.kind == "f":
                bad |= ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        self.not_finite += int(bad.sum())

    def failure(self, what: str, why: str) -> None:
        """A row, or an image, without an answer."""
        self.failed += 1
        if len(self.failures) < _SHOWN:
            self.failures.append(f"{what}: {why}")

    def add(self, other: Tally) -> None:
        """Another part of the same run."""
        self.ok += other.ok
        self.failed += other.failed
        self.not_finite += other.not_finite
        self.seconds += other.seconds
        self._count(other.classes)
        self.failures = [*self.failures, *other.failures][:_SHOWN]

    def as_document(self) -> dict[str, Any]:
        """For JSON; `read` reads it."""
        return {
            "ok": self.ok,
            "failed": self.failed,
            "not_finite": self.not_finite,
            "seconds": round(self.seconds, 3),
            "classes": dict(self.classes.most_common()),
            "failures": self.failures,
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Tally:
        """What `as_document` gave."""
        counts = {name: document[name] for name in ("ok", "failed", "not_finite", "seconds", "failures")}
        return cls(**counts, classes=Counter(document["classes"]))

    def _count(self, found: Mapping[str, int]) -> None:
        for name, count in found.items():
            known = name in self.classes or len(self.classes) < _MOST_CLASSES
            self.classes[name if known else _OTHER] += count


def class_names(outputs: Mapping[str, Array]) -> Counter[str]:
    """The class of each row, counted: the first output that is one label a row; else the largest of a row of the first
    that is probabilities. Empty where no output tells classes."""
    for array in outputs.values():
        if array.dtype.kind in "iubO" and array.size == len(array):
            return Counter(str(item) for item in array.ravel().tolist())
    for array in outputs.values():
        if array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 1:
            sums = array.sum(axis=1, dtype=np.float64)
            if (array >= 0).all() and (np.abs(sums - 1) <= _SUMS_TO_ONE).all():
                return Counter(str(best) for best in array.argmax(axis=1).tolist())
    return Counter()
