"""What one answer predicts, in a word: a class, and how sure the model is. Both sides of a split are compared by it.

An answer may hold thousands of predictions (rows, or the pixels of a mask) that are anything but independent, and
the comparison counts answers. So one of them is drawn, which also costs the same for a mask as for a digit.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from modelramp_server.protocol.tensors import Array

HEADER = b"x-modelramp-prediction"
LONGEST_NAME = 64
MOST_PROBABILITIES = 10_000
_TOLERANCE = 0.01
_FEW = 64  # numbers that Python goes through sooner than numpy begins
_TOLD = re.compile(r"([^;\s]{1,600})(?:;confidence=([01]\.\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class by name; `confidence` (0 to 1) where the model gives probabilities."""

    name: str
    confidence: float | None = None

    def to_header(self) -> bytes:
        """The value of `x-modelramp-prediction`."""
        sure = "" if self.confidence is None else f";confidence={self.confidence:.4f}"
        return (quote(self.name, safe="") + sure).encode()

    @staticmethod
    def from_header(value: bytes) -> Prediction | None:
        """None for what `to_header` does not write."""
        match = _TOLD.fullmatch(value.decode("latin-1"))
        if match is None:
            return None
        confidence = None if match[2] is None else min(1.0, float(match[2]))
        return Prediction(unquote(match[1])[:LONGEST_NAME], confidence)


def draw(outputs: Mapping[str, Array]) -> Prediction | None:
    """One prediction of an answer, at random; None where no output tells classes.

    The class is an element of the first output of integers, booleans or strings; else the largest of a row of the
    first float output with rows, where those are probabilities: none is negative, and their sum is 1.
    """
    labels: Array | None = None
    scores: Array | None = None
    for array in outputs.values():
        if array.dtype.kind == "f":
            if scores is None and _may_be_probabilities(array):
                scores = array
        elif labels is None and array.dtype.kind in "iubOUS" and array.size:
            labels = array
    count = labels.size if labels is not None else scores.size // scores.shape[-1] if scores is not None else 0
    if not count:
        return None
    index = random.randrange(count) if count > 1 else 0
    best = None if scores is None else _best(scores, index)
    if labels is None:
        return None if best is None else Prediction(str(best[0]), best[1])
    name = _name(labels.item(index))
    return None if name is None else Prediction(name, None if best is None else best[1])


def _may_be_probabilities(array: Array) -> bool:
    return array.ndim > 1 and 2 <= array.shape[-1] <= MOST_PROBABILITIES and array.size > 0


def _best(scores: Array, index: int) -> tuple[int, float] | None:
    """Which of one vector's probabilities is the largest, and how large; None where it holds none."""
    leading = scores.shape[:-1]
    place = (index % leading[0],) if len(leading) == 1 else np.unravel_index(index % prod(leading), leading)
    vector = scores[place]
    if vector.size > _FEW:
        return _best_of_many(vector)
    values = vector.tolist()
    if values[0] < 0 or not abs(sum(values) - 1) <= _TOLERANCE or min(values) < 0:
        return None
    largest = max(values)
    return values.index(largest), min(1.0, largest)


def _best_of_many(vector: Array) -> tuple[int, float] | None:
    if vector.item(0) < 0 or vector.item(-1) < 0:  # as in most outputs that are no probabilities
        return None
    if not abs(float(vector.sum(dtype=np.float64)) - 1) <= _TOLERANCE or vector.min() < 0:
        return None
    best = int(vector.argmax())
    return best, min(1.0, vector.item(best))


def _name(item: Any) -> str | None:
    if isinstance(item, bytes):
        item = item.decode(errors="replace")
    return str(item)[:LONGEST_NAME] or "empty" if isinstance(item, str | int) else None
