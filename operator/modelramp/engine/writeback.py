"""Tells the registry by tags what became of its versions, where its configuration allows that.

Never in the way of a pass: a pass notes what is wanted, and a queue of its own compares that with what the registry has
and writes the difference, again and again with back-off if it must. The registry is asked first each time, so a restart
writes nothing, and what was cut off is finished. A version is only tagged while it is the one that was meant: the
registry may be another behind the same address.
"""

import asyncio
from collections.abc import Callable, Mapping

from modelramp.desired.marks import STATE, Mark, tag, tags
from modelramp.domain.world import ModelVersion
from modelramp.engine.queue import WorkQueue
from modelramp.engine.registries import RegistryConfig
from modelramp.ports import Key, Registry, RegistryError

FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 300.0
WRITERS = 2

WRITTEN, FAILED = "written", "failed"


class WriteBack:
    """``count`` is told how each write ended; ``may_write`` raises if this process does not lead any more."""

    def __init__(
        self,
        configs: Mapping[str, RegistryConfig],
        adapters: Mapping[str, Registry],
        may_write: Callable[[], None],
        count: Callable[[str, str], None],
        queue: WorkQueue | None = None,
    ) -> None:
        self._configs = configs
        self._adapters = adapters
        self._may_write = may_write
        self._count = count
        loop = asyncio.get_running_loop()
        self._queue = WorkQueue(loop, FIRST_BACK_OFF, LONGEST_BACK_OFF) if queue is None else queue
        self._wanted: dict[Key, dict[ModelVersion, Mark]] = {}
        self._touched: dict[Key, set[str]] = {}

    def note(self, key: Key, marks: Mapping[ModelVersion, Mark]) -> None:
        """What the object's versions are now."""
        wanted = {model: mark for model, mark in marks.items() if self._allowed(key, model)}
        if self._wanted.get(key, {}) != wanted:
            self._wanted[key] = wanted
            self._queue.add(key)

    def gone(self, key: Key) -> None:
        """The object does not exist any more: its tags go."""
        self.note(key, {})

    async def run(self) -> None:
        """Until cancelled. Raises LeaseLost."""
        await self._queue.run_workers(WRITERS, self.write)

    async def write(self, key: Key) -> None:
        """Makes the registries hold what is wanted. Raises RegistryError, LeaseLost."""
        wanted = self._wanted[key]
        named = {model.registry for model in wanted}
        self._touched[key] = self._touched.get(key, set()) | named
        for registry in sorted(self._touched[key]):
            here = {model: mark for model, mark in wanted.items() if model.registry == registry}
            await self._settle(key, self._adapters[registry], registry, here)
        if self._wanted[key] != wanted:
            return  # meanwhile; then the key is on the queue again
        self._touched[key] = named
        if not wanted:
            del self._wanted[key], self._touched[key]

    async def _settle(self, key: Key, adapter: Registry, registry: str, wanted: Mapping[ModelVersion, Mark]) -> None:
        there = await adapter.marked(tag(*key, STATE))
        for name, version in there.keys() - {(model.name, model.version) for model in wanted}:
            await self._put(adapter, registry, name, version, difference(there[name, version], tags(*key, None)))
        for model, mark in wanted.items():
            needed = difference(there.get((model.name, model.version), {}), tags(*key, mark))
            if needed and await self._same(adapter, model):
                await self._put(adapter, registry, model.name, model.version, needed)

    async def _put(
        self, adapter: Registry, registry: str, name: str, version: int, needed: Mapping[str, str | None]
    ) -> None:
        self._may_write()
        try:
            await adapter.set_tags(name, version, needed)
        except RegistryError:
            self._count(registry, FAILED)
            raise
        self._count(registry, WRITTEN)

    async def _same(self, adapter: Registry, model: ModelVersion) -> bool:
        found = await adapter.version(model.name, model.version)
        return found is not None and (found.created, found.source) == (model.created, model.source)

    def _allowed(self, key: Key, model: ModelVersion) -> bool:
        config = self._configs.get(model.registry)
        return config is not None and config.write and config.allows(key.namespace, model.name)


def difference(there: Mapping[str, str], wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    return {tag: value for tag, value in wanted.items() if there.get(tag) != value}
