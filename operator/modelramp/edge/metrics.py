"""The operator's own metrics, for Prometheus: passes, rollouts, decisions, registries, writes."""

import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from modelramp.api.status import Status
from modelramp.domain.changes import ended, looks
from modelramp.domain.snapshot import Decision
from modelramp.domain.world import ModelVersion
from modelramp.engine.queue import Handler, WorkQueue
from modelramp.ports import Clock, Conflict, Key, RegisteredModel, Registry, RegistryError

T = TypeVar("T")


class Metrics:
    """Hears of every decision (the Observer port), and counts what passes through what it wraps."""

    def __init__(self, queue: WorkQueue) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._passes = self._counter("modelramp_reconcile_passes", "Passes over objects.", "outcome")
        self._seconds = Histogram("modelramp_reconcile_seconds", "Duration of a pass.", registry=self._registry)
        self._gauge("modelramp_queue_depth", "Objects that wait for a worker.").set_function(lambda: len(queue))
        self._gauge("modelramp_queue_oldest_seconds", "How long the first of them has waited.").set_function(
            queue.oldest_waiting
        )
        self._leading = self._gauge("modelramp_leader", "1 while this process leads.")
        self._ended = self._counter("modelramp_rollouts_finished", "Rollouts that ended.", "outcome")
        self._looks = self._counter("modelramp_analysis_looks", "Looks at the evidence.", "metric", "verdict")
        self._phase = self._gauge(
            "modelramp_rollout_phase", "1 for the phase that an object is in.", "namespace", "name", "phase"
        )
        self._weight = self._gauge(
            "modelramp_rollout_weight", "Percent of the requests given to the candidate.", "namespace", "name"
        )
        self._errors = self._counter("modelramp_registry_errors", "Failed calls of a registry.", "registry")
        self._stale = self._gauge(
            "modelramp_registry_staleness_seconds", "Since a registry's last good answer.", "registry"
        )
        self._writes = self._counter("modelramp_api_writes", "Writes sent to the API server.", "verb", "resource")
        self._notifications = self._counter(
            "modelramp_notifications", "Notifications by how they ended.", "host", "outcome"
        )
        self._tagged = self._counter(
            "modelramp_registry_tag_writes", "Model versions tagged, by how that ended.", "registry", "outcome"
        )
        self._phases: dict[Key, str] = {}

    def leads(self) -> None:
        self._leading.set(1)

    def wrote(self, verb: str, resource: str) -> None:
        self._writes.labels(verb, resource).inc()

    def notified(self, host: str, outcome: str) -> None:
        self._notifications.labels(host, outcome).inc()

    def tagged(self, registry: str, outcome: str) -> None:
        self._tagged.labels(registry, outcome).inc()

    def decided(self, key: Key, before: Status, decision: Decision) -> None:
        after = decision.status
        outcome = ended(before, after)
        if outcome is not None:
            self._ended.labels(outcome.value).inc()
        for metric, verdict in looks(before, after):
            self._looks.labels(metric, verdict.value).inc()
        if self._phases.get(key) != after.phase.value:
            self._leave_phase(key)
            self._phases[key] = after.phase.value
            self._phase.labels(*key, after.phase.value).set(1)
        self._weight.labels(*key).set(after.traffic.weight)

    def gone(self, key: Key) -> None:
        if key in self._phases:
            self._leave_phase(key)
            self._weight.remove(*key)

    def counted(self, handler: Handler) -> Handler:
        """The same handler, with its passes counted and timed."""

        async def pass_over(key: Key) -> float | None:
            started, outcome = time.monotonic(), "error"
            try:
                again = await handler(key)
                outcome = "ok"
                return again
            except Conflict:
                outcome = "conflict"
                raise
            finally:
                self._passes.labels(outcome).inc()
                self._seconds.observe(time.monotonic() - started)

        return pass_over

    def measured(self, name: str, registry: Registry, clock: Clock) -> Registry:
        """The same registry, with its errors counted and its last good answer remembered."""
        measured = MeasuredRegistry(registry, clock, self._errors.labels(name))
        self._stale.labels(name).set_function(measured.staleness)
        return measured

    def exposition(self) -> bytes:
        return generate_latest(self._registry)

    def _leave_phase(self, key: Key) -> None:
        phase = self._phases.pop(key, None)
        if phase is not None:
            self._phase.remove(*key, phase)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)


class MeasuredRegistry:
    """The Registry port around another."""

    def __init__(self, inner: Registry, clock: Clock, errors: Counter) -> None:
        self._inner = inner
        self._clock = clock
        self._errors = errors
        self._answered = clock.monotonic()

    async def search(self) -> Sequence[RegisteredModel]:
        return await self._counted(self._inner.search())

    async def version(self, name: str, version: int) -> ModelVersion | None:
        return await self._counted(self._inner.version(name, version))

    async def versions(self, wanted: Collection[tuple[str, int]]) -> Sequence[ModelVersion]:
        return await self._counted(self._inner.versions(wanted))

    async def metrics(self, name: str, version: int) -> Mapping[str, float]:
        return await self._counted(self._inner.metrics(name, version))

    async def tags(self, name: str, version: int) -> Mapping[str, str]:
        return await self._counted(self._inner.tags(name, version))

    async def marked(self, tag: str) -> Mapping[tuple[str, int], Mapping[str, str]]:
        return await self._counted(self._inner.marked(tag))

    async def set_tags(self, name: str, version: int, tags: Mapping[str, str | None]) -> None:
        await self._counted(self._inner.set_tags(name, version, tags))

    async def _counted(self, call: Awaitable[T]) -> T:
        try:
            answer = await call
        except RegistryError:
            self._errors.inc()
            raise
        self._answered = self._clock.monotonic()
        return answer

    def staleness(self) -> float:
        """Seconds since the last good answer; before the first one, since the start."""
        return self._clock.monotonic() - self._answered
