"""A brief model keeps one thread, unless more of them help."""

from collections.abc import Mapping

import numpy as np

from modelramp_server.batching.few_threads import BRIEF, WORTH, use_few_threads
from modelramp_server.observability.outputs import watched
from modelramp_server.protocol.tensors import Array, TensorSpec


class Timed:
    """A model whose forwards take what is said for each number of threads, on a clock of its own."""

    name, fallback, named_outputs, only_computes = "timed", "", True, True
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, 1)),)
    outputs = inputs

    def __init__(self, seconds: dict[int, float]) -> None:
        self.device = "cpu"
        self.seconds, self.now = seconds, 0.0
        self.threads = max(seconds)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.now += self.seconds[self.threads]
        return dict(inputs)

    def use_threads(self, count: int) -> None:
        self.threads = count

    def chosen(self) -> int:
        """Threads after the measurement, through what the server puts around a runtime."""
        around = watched(self, lambda rows: None)
        use_few_threads(around, {"x": np.zeros((1, 1), np.float32)}, self.threads, lambda: self.now)
        return self.threads


def test_threads_that_bring_little_are_not_used() -> None:
    assert Timed({2: 0.010, 1: 0.010 * WORTH - 0.001}).chosen() == 1
    assert Timed({8: 0.010, 1: 0.009}).chosen() == 1
    assert Timed({8: 0.010, 1: 0.010 * WORTH + 0.001}).chosen() == 8


def test_threads_of_what_takes_long_are_not_asked_about() -> None:
    assert Timed({2: BRIEF + 0.001, 1: 0.001}).chosen() == 2


def test_on_a_gpu_there_is_nothing_to_choose() -> None:
    model = Timed({2: 0.010, 1: 0.001})
    model.device = "cuda"
    assert model.chosen() == 2
