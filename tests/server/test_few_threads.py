"""A brief model keeps one thread, unless more of them help."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from modelramp_server import serve
from modelramp_server.batching.few_threads import BRIEF, WORTH, use_few_threads
from modelramp_server.batching.short_forwards import SHORT
from modelramp_server.batching.warmup import warm_up
from modelramp_server.observability.outputs import watched
from modelramp_server.protocol.tensors import Array, TensorSpec
from modelramp_server.runtime.base import UsesThreads
from tests.server.test_batching import Doubling


class Timed:
    """A model whose forwards take what is said for each number of threads, on a clock of its own."""

    name, fallback, named_outputs, only_computes, at_once = "timed", "", True, True, False
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, 1)),)
    outputs = inputs

    def __init__(self, seconds: dict[int, float]) -> None:
        self.device, self.forwards = "cpu", 0
        self.seconds, self.now = seconds, 0.0
        self.threads = max(seconds)
        self.told: list[int] = []

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.now += self.seconds[self.threads]
        self.forwards += 1
        return dict(inputs)

    def use_threads(self, count: int) -> None:
        self.threads = count
        self.told.append(count)

    def chosen(self, rows: int = 1) -> int:
        """Threads after the measurement with batches of so many rows, through what the server puts around a runtime."""
        around = watched(self, lambda rows: None)
        use_few_threads(around, [{"x": np.zeros((1, 1), np.float32)}] * rows, self.threads, lambda: self.now)
        return self.threads


def test_threads_that_bring_little_are_not_used() -> None:
    assert Timed({2: 0.010, 1: 0.010 * WORTH - 0.001}).chosen() == 1
    assert Timed({8: 0.010, 1: 0.009}).chosen() == 1
    assert Timed({8: 0.010, 1: 0.010 * WORTH + 0.001}).chosen() == 8
    assert Timed({2: SHORT / 2, 1: SHORT}).chosen() == 1, "two at one time are as fast"
    assert Timed({8: SHORT / 8, 1: SHORT}).chosen() == 8


def test_what_is_measured_is_what_is_served() -> None:
    """To be told another number may mean to be loaded again (ONNX), and cold."""
    few, many = Timed({2: 0.010, 1: 0.009}), Timed({2: 0.010, 1: 0.020})
    assert (few.chosen(), few.told) == (1, [1])
    assert (many.chosen(), many.told) == (2, [1, 2])
    assert many.forwards == few.forwards + 1, "warm again"


def test_threads_of_what_takes_long_are_not_asked_about() -> None:
    assert Timed({2: BRIEF + 0.001, 1: 0.001}).chosen() == 2


def test_threads_are_judged_by_rows_as_they_will_be_run() -> None:
    class InCompany(Timed):
        """On one thread each row takes as long; with more, four take no longer than one."""

        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            self.now += self.seconds[self.threads] * (len(inputs["x"]) if self.threads == 1 else 1)
            return dict(inputs)

    assert InCompany({2: 0.004, 1: 0.001 * WORTH - 0.0001}).chosen(rows=4) == 1
    assert InCompany({2: 0.004, 1: 0.001 * WORTH + 0.0001}).chosen(rows=4) == 2


def test_one_hiccup_says_nothing() -> None:
    class Hiccup(Timed):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            self.now += 0.0 if self.forwards else 1.0
            return super().predict(inputs)

    assert Hiccup({2: 0.010, 1: 0.009}).chosen() == 1


def test_a_model_without_threads_is_left_alone() -> None:
    model = watched(Doubling(), lambda rows: None)
    use_few_threads(model, [{"x": np.zeros(1, np.int64)}], 2)
    assert not isinstance(model, UsesThreads)


def test_the_warm_up_chooses_where_an_event_loop_needs_the_cpus() -> None:
    class Sleeping(Timed):
        def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            time.sleep(self.seconds[self.threads])
            return super().predict(inputs)

    for threads, chosen in ((1, 2), (2, 1)):  # nobody else needs them; an event loop does
        model = Sleeping({2: 0.005, 1: 0.0})
        warm_up(model, None, 1, 4, threads)
        assert model.threads == chosen


def test_on_a_gpu_there_is_nothing_to_choose() -> None:
    model = Timed({2: 0.010, 1: 0.001})
    model.device = "cuda"
    assert model.chosen() == 2


@pytest.mark.parametrize(("wished", "found"), [("", "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_of_openmp_sleep_unless_told_otherwise(
    wished: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def service(settings: Any, folder: Any) -> None:
        raise Begun(os.environ["OMP_WAIT_POLICY"])

    monkeypatch.setattr(serve, "Service", service)
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", wished)
    if not wished:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(Begun, match=found):
        serve.serve(None, None)  # type: ignore[arg-type]
