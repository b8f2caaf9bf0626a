"""What the configured registries say, for all objects at once: one search per registry and interval."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from modelramp.api.spec import ModelRef
from modelramp.domain.world import ModelVersion, Resolution, Resolved, Unreachable, Unresolved
from modelramp.ports import Clock, Key, RegisteredModel, Registry, RegistryError

logger = logging.getLogger(__name__)

AT_ONCE = 4  # requests to one registry
TOGETHER = 500  # versions that it is asked for at a time
FACT_SECONDS = 15.0  # passes in quick succession ask once
NUDGE_SECONDS = 0.5  # at least between two searches, however often somebody says that something has changed

Fact = TypeVar("Fact")


@dataclass(frozen=True)
class RegistryConfig:
    """A registry as the administrator configured it: where it is, for us and for the pods, and who may use what."""

    uri: str
    pod_uri: str | None = None
    namespaces: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    write: bool = False  # tags of versions

    def allows(self, namespace: str, model: str) -> bool:
        return any(fnmatchcase(namespace, glob) for glob in self.namespaces) and any(
            fnmatchcase(model, glob) for glob in self.models
        )


@dataclass
class _View:
    """What one registry said last. ``moved``: its poller's last sign of life; ``news``: it is to wait no longer."""

    moved: float
    models: Mapping[str, RegisteredModel] | None = None
    asked: float = float("-inf")
    nudged: bool = False
    error: str | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def due(self, interval: float) -> float:
        """When it is to be asked again."""
        return self.asked + (min(NUDGE_SECONDS, interval) if self.nudged else interval)


class Registries:
    """Answers `resolve` from memory; `run` keeps the memory fresh and wakes the keys whose answer has changed."""

    def __init__(
        self,
        configs: Mapping[str, RegistryConfig],
        adapters: Mapping[str, Registry],
        clock: Clock,
        wake: Callable[[Key], None],
    ) -> None:
        self._configs = configs
        self._adapters = adapters
        self._clock = clock
        self._wake = wake
        self._wanted: dict[Key, ModelRef] = {}
        self._answers: dict[Key, Resolution] = {}
        self._views = {name: _View(clock.monotonic()) for name in configs}
        self._versions: dict[tuple[str, str, int], ModelVersion] = {}
        self._facts: dict[tuple[str, str, str, int], tuple[float, Any]] = {}

    def resolve(self, key: Key, ref: ModelRef) -> Resolution:
        """What the registry said of this reference; None if it has not been asked yet, which it then will be."""
        if self._wanted.get(key) != ref:
            self._wanted[key] = ref
            self._answers[key] = refusal(self._configs, key, ref)
            if self._answers[key] is None:
                self._views[ref.registry].news.set()
        return self._answers[key]

    def nudge(self, registry: str) -> None:
        """Something may have changed there: it is asked at once, but not at each of many nudges."""
        self._views[registry].nudged = True
        self._views[registry].news.set()

    def pod_uri(self, registry: str) -> str:
        """The registry's address as pods reach it."""
        config = self._configs[registry]
        return config.pod_uri or without_credentials(config.uri)

    async def metrics(self, namespace: str, model: ModelVersion) -> Mapping[str, float] | Unreachable:
        """The metrics of a version's run, at most a few seconds old."""
        return await self._fact("metrics", namespace, model, lambda it: it.metrics(model.name, model.version))

    async def tags(self, namespace: str, model: ModelVersion) -> Mapping[str, str] | Unreachable:
        """A version's tags, at most a few seconds old."""
        return await self._fact("tags", namespace, model, lambda it: it.tags(model.name, model.version))

    async def _fact(
        self, what: str, namespace: str, model: ModelVersion, ask: Callable[[Registry], Awaitable[Fact]]
    ) -> Fact | Unreachable:
        """Asked by name and number only: the rest of ``model`` is what stands in the object's namespace."""
        config = self._configs.get(model.registry)
        if config is None or not config.allows(namespace, model.name):
            return Unreachable(f"namespace {namespace} may not use model {model.name!r} of registry {model.registry}")
        now = self._clock.monotonic()
        self._facts = {of: known for of, known in self._facts.items() if now - known[0] < FACT_SECONDS}
        of = (what, model.registry, model.name, model.version)
        if of not in self._facts:
            self._facts[of] = now, await self._ask(model.registry, ask)
        answer: Fact | Unreachable = self._facts[of][1]
        return answer

    async def _ask(self, name: str, ask: Callable[[Registry], Awaitable[Fact]]) -> Fact | Unreachable:
        try:
            return await ask(self._adapters[name])
        except RegistryError as error:
            return Unreachable(f"registry {name}: {error}")

    def forget(self, key: Key) -> None:
        self._wanted.pop(key, None)
        self._answers.pop(key, None)

    def silence(self) -> float:
        """Seconds since the poller of some registry last moved on."""
        return max((self._clock.monotonic() - view.moved for view in self._views.values()), default=0.0)

    async def run(self, interval: float) -> None:
        """Polls until cancelled: each registry every `interval` seconds, a newly wanted reference at once. One that is
        slow to answer keeps no other waiting."""
        async with asyncio.TaskGroup() as pollers:
            for name, view in self._views.items():
                pollers.create_task(self._follow(name, view, interval))

    async def _follow(self, name: str, view: _View, interval: float) -> None:
        while True:
            view.news.clear()
            await self._poll(name, interval)
            now = view.moved = self._clock.monotonic()
            due = view.due(interval) if self._wanted_of(name) else now + interval
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(view.news.wait(), max(due - now, 0.0))

    async def _poll(self, name: str, interval: float) -> None:
        """Searches the registry if its interval is over, then answers every key that wants something of it."""
        wanted = self._wanted_of(name)
        if not wanted:
            return
        view = self._views[name]
        if self._clock.monotonic() >= view.due(interval):
            await self._search(name, view)
        await self._learn(name, view, wanted)
        line = iter(wanted.items())
        await asyncio.gather(*(self._tell(name, view, line) for _ in range(min(AT_ONCE, len(wanted)))))

    async def _tell(self, name: str, view: _View, line: Iterator[tuple[Key, ModelRef]]) -> None:
        """Serves those in line, one after the other; several share the line, as a version to be asked for alone is a
        request."""
        for key, ref in line:
            answer = await self._answer(name, view, key, ref)
            view.moved = self._clock.monotonic()
            if self._wanted.get(key) == ref and self._answers.get(key) != answer:
                self._answers[key] = answer
                self._wake(key)

    def _wanted_of(self, name: str) -> dict[Key, ModelRef]:
        return {key: ref for key, ref in self._wanted.items() if ref.registry == name}

    async def _search(self, name: str, view: _View) -> None:
        view.asked, view.nudged = self._clock.monotonic(), False
        try:
            models = await self._adapters[name].search()
        except RegistryError as error:
            if view.error is None:
                logger.warning("registry %s: %s", name, error)
            view.error = str(error)
            return
        view.error = None
        view.models, before = {model.name: model for model in models}, view.models or {}
        created = {model: view.models[model].created for model in before.keys() & view.models.keys()}
        born_anew = {model for model in before if created.get(model) != before[model].created}  # or gone
        self._versions = {
            key: known for key, known in self._versions.items() if key[0] != name or key[1] not in born_anew
        }

    async def _learn(self, name: str, view: _View, wanted: Mapping[Key, ModelRef]) -> None:
        """Versions that are new to us, many at a time. What this does not tell is asked for alone."""
        meant = {(ref.name, self._meant(name, view, key, ref)) for key, ref in wanted.items()}
        numbers = ((model, number) for model, number in meant if isinstance(number, int))
        new = sorted(it for it in numbers if (name, *it) not in self._versions)
        with contextlib.suppress(RegistryError):
            for first in range(0, len(new), TOGETHER):
                for found in await self._adapters[name].versions(new[first : first + TOGETHER]):
                    self._versions[name, found.name, found.version] = found
                view.moved = self._clock.monotonic()

    async def _answer(self, name: str, view: _View, key: Key, ref: ModelRef) -> Resolution:
        meant = self._meant(name, view, key, ref)
        return await self._version(name, ref.name, meant) if isinstance(meant, int) else meant

    def _meant(self, name: str, view: _View, key: Key, ref: ModelRef) -> int | Unresolved | Unreachable:
        """The number of the version that is meant, or why there is none."""
        refused = refusal(self._configs, key, ref)
        if refused is not None:
            return refused
        if view.error is not None or view.models is None:
            return Unreachable(f"registry {name}: {view.error}")
        model = view.models.get(ref.name)
        if model is None:
            return Unresolved(
                "ModelNotFound", f"registry {name} has no model {ref.name!r}; register it, or mend the name"
            )
        number = ref.version if ref.version is not None else model.aliases.get(ref.alias or "")
        if number is None:
            there = ", ".join(sorted(model.aliases)) or "none"
            message = f"model {ref.name!r} has no alias {ref.alias!r} (it has: {there}); set it in registry {name}"
            return Unresolved("AliasNotFound", message)
        return number

    async def _version(self, registry: str, model: str, number: int) -> Resolution:
        known = self._versions.get((registry, model, number))
        if known is not None:
            return Resolved(known)
        try:
            found = await self._adapters[registry].version(model, number)
        except RegistryError as error:
            return Unreachable(f"registry {registry}: {error}")
        if found is None:
            message = f"model {model!r} has no version {number} in registry {registry}; mend spec.model.version"
            return Unresolved("VersionNotFound", message)
        self._versions[registry, model, number] = found
        return Resolved(found)


def without_credentials(uri: str) -> str:
    """The operator's own user and password never reach a pod template."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def refusal(configs: Mapping[str, RegistryConfig], key: Key, ref: ModelRef) -> Unresolved | None:
    """Why this object may not ask the registry it names, if so."""
    config = configs.get(ref.registry)
    if config is None:
        there = ", ".join(sorted(configs)) or "none"
        message = f"the operator has no registry {ref.registry!r} (it has: {there}); ask its administrator"
        return Unresolved("RegistryNotConfigured", message)
    if not config.allows(key.namespace, ref.name):
        message = f"namespace {key.namespace} may not use model {ref.name!r} of registry {ref.registry}"
        message += "; ask the operator's administrator"
        return Unresolved("NotAllowed", message)
    return None
