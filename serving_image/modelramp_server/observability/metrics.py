"""The series of `GET /metrics`, with labels bound ahead: looking labels up costs more than counting."""

import platform
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version as package_version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from modelramp_server.batching.jobs import Job
from modelramp_server.batching.warm_model import Observer
from modelramp_server.observability.bad_window import BadWindow
from modelramp_server.observability.counts import Counts
from modelramp_server.observability.histogram import Histogram
from modelramp_server.observability.predictions import Predictions

# 1 ms to 30 s, about five a decade.
SERVICE_BUCKETS = (
    0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063,
    0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 30.0,
)  # fmt: skip
WAIT_BUCKETS = (0.0001, 0.00025, 0.0005, *SERVICE_BUCKETS)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_OWN = ("model", "version", "revision")

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All series of one server, in a registry of their own."""

    content_type = b"text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, model: str, version: str, revision: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._own = (model, version, revision)
        self._clock = clock
        self._bad, self._failed = BadWindow(clock()), BadWindow(clock())
        self.predictions = Predictions(self._own)
        self.registry.register(self.predictions)
        self._counters()
        self._gauges()

    def _counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, (*_OWN, *labels), registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, (*_OWN, *labels), buckets, self.registry)

        def counts(name: str, text: str, *labels: str) -> Counts:
            return Counts(name, text, (*_OWN, *labels), self.registry)

        requests = counts("modelramp_requests", "Inference requests answered to a client", "route", "code")
        duration = histogram("modelramp_request_duration_seconds", "First byte to last", SERVICE_BUCKETS, "route")
        split = counts("modelramp_split_requests", "By the side dealt to", "side", "target", "salt", "outcome")
        service = histogram(
            "modelramp_split_service_seconds", "Service time of ok answers", SERVICE_BUCKETS, "side", "target", "salt"
        )
        shadow = counter("modelramp_shadow_answers", "Answers to copies, by comparison", "target", "salt", "result")
        rows = histogram("modelramp_batch_rows", "Rows of a forward", tuple(map(float, ROW_BUCKETS)))
        wait = histogram("modelramp_queue_wait_seconds", "Queued to the begin of its batch", WAIT_BUCKETS)
        rejects = counter("modelramp_rejects", "Requests that no model was asked for, by reason", "reason")
        net = counter("modelramp_net_answers", "Answers of stable in the candidate's place, by reason", "reason")
        nonfinite = counter("modelramp_nonfinite_rows", "Rows of an output with NaN or an infinity")
        lost = counter("modelramp_records_lost", "Lines of a log that could not be written in time", "log")
        unreadable = counter("modelramp_traffic_unreadable", "Splits that could not be read")
        own = self._own
        self._request = lru_cache(1024)(lambda route, code: requests.labels(*own, route, str(code)))
        self._duration = lru_cache(64)(lambda route: duration.labels(*own, route))
        self.split = lru_cache(1024)(
            lambda side, target, salt, outcome: split.labels(*own, side, target, salt, outcome)
        )
        self.service = lru_cache(256)(lambda side, target, salt: service.labels(*own, side, target, salt))
        self.shadow_answer = lru_cache(256)(lambda target, salt, result: shadow.labels(*own, target, salt, result).inc)
        self._rows, self._queue_wait = rows, wait
        self.forwards("")  # told as 0 where another server runs the model
        self._reject = lru_cache(64)(lambda reason: rejects.labels(*own, reason).inc)
        self._net = lru_cache(64)(lambda reason: net.labels(*own, reason).inc)
        self.nonfinite_rows = nonfinite.labels(*own).inc
        self.record_lost = lru_cache(8)(lambda log: lost.labels(*own, log).inc)
        self.split_unreadable = unreadable.labels(*own).inc

    def _gauges(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, (*_OWN, *labels), registry=self.registry)

        build = gauge("modelramp_build_info", "1", "server", "python")
        build.labels(*self._own, package_version("modelramp"), platform.python_version()).set(1)
        self._info = gauge("modelramp_model_info", "1", "runtime", "device")
        self._fallback = gauge("modelramp_device_fallback", "1 where auto looked for a GPU and took the CPU")
        self.generation = gauge("modelramp_traffic_generation", "Generation acted on; 0 none").labels(*self._own)
        self.split_version = gauge("modelramp_split_version", "Newest split format it reads").labels(*self._own)
        self.weight = gauge("modelramp_traffic_weight", "Weight in force").labels(*self._own)
        self.shadow = gauge("modelramp_traffic_shadow", "Share copied").labels(*self._own)
        self.shadow_inflight = gauge("modelramp_shadow_inflight", "Copies at the candidate").labels(*self._own)
        self.relay_inflight = gauge("modelramp_relay_inflight", "Requests at the candidate").labels(*self._own)
        self.breaker_open = gauge("modelramp_relay_breaker_open", "1 while open").labels(*self._own)
        self.batch_limit = gauge("modelramp_batch_limit_rows", "Rows at most in a forward now").labels(*self._own)
        self.memory = gauge("modelramp_memory_bytes", "Memory of this process alone").labels(*self._own)
        self.memory_limit = gauge("modelramp_memory_limit_bytes", "MEMORY_LIMIT; 0 none").labels(*self._own)
        self.memory_short = gauge("modelramp_memory_short", "1 while requests are refused for it").labels(*self._own)
        self.queue_depth = gauge("modelramp_queue_depth", "Requests waiting for the model").labels(*self._own)
        seconds = gauge("modelramp_bad_window_seconds", "Seconds seen in the last hour").labels(*self._own)
        bad = gauge("modelramp_bad_window_sum", "Bad answers of this pod in them").labels(*self._own)
        bad_squares = gauge("modelramp_bad_window_squares", "Sum of their squares per second").labels(*self._own)
        failed = gauge("modelramp_failed_window_sum", "Bad and refused answers in them").labels(*self._own)
        failed_squares = gauge("modelramp_failed_window_squares", "Sum of their squares per second").labels(*self._own)
        seconds.set_function(lambda: self._bad.read(self._clock())[0])
        bad.set_function(lambda: self._bad.read(self._clock())[1])
        bad_squares.set_function(lambda: self._bad.read(self._clock())[2])
        failed.set_function(lambda: self._failed.read(self._clock())[1])
        failed_squares.set_function(lambda: self._failed.read(self._clock())[2])

    def model_loaded(self, runtime: str, device: str, fallback: bool) -> None:
        """Say which runtime serves, on which device, and whether that should have been another."""
        self._info.labels(*self._own, runtime, device).set(1)
        self._fallback.labels(*self._own).set(fallback)

    def forwards(self, thread: str) -> Observer:
        """Who is told of the forwards on one thread."""
        wait = self._queue_wait.labels(*self._own, thread=thread)

        def waited(jobs: Iterable[Job], now: float) -> None:
            for job in jobs:
                wait(now - job.queued)

        return Observer(self._rows.labels(*self._own, thread=thread), waited)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer to a client, and what it took."""
        self._request(route, status)()
        self._duration(route)(seconds)

    def rejected(self, reason: str) -> None:
        """Count a request that no model was asked for."""
        self._reject(reason)()

    def net_answered(self, reason: str) -> None:
        """Count an answer of stable's in the candidate's place."""
        self._net(reason)()

    def bad_answer(self) -> None:
        """Count a bad answer of this pod's own model."""
        now = self._clock()
        self._bad.add(now)
        self._failed.add(now)

    def refused_answer(self) -> None:
        """Count an answer that says nothing of this pod's own model: it was not asked."""
        self._failed.add(self._clock())

    def render(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)
