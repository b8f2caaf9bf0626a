"""Kopf at the edge: what it sees is put on the queue, and nothing else.

Only ``on.event`` handlers, because kopf's others keep annotations and finalizers on the user's object and state in
memory. Kopf posts no events, keeps no progress and has no peers. The children are watched by the cache (ADR 21).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import kopf

from modelramp.api import GROUP, PLURAL, VERSION
from modelramp.engine.echo import Echo
from modelramp.engine.queue import WorkQueue
from modelramp.ports import ClusterError, Key

IDENTITY = "modelramp-operator"  # kopf would ask for the user's name, and an image's user need not have one
WORKER_SECONDS = 0.5  # kopf has a task per object that idles for so long, and holds the object's last event, parsed
RESYNC_SECONDS = 600.0  # a deletion missed by a watch is noticed at the latest then


class Watch:
    """Runs kopf over some namespaces (none named: all) and keeps the names of all ModelDeployments for the resync."""

    def __init__(self, queue: WorkQueue, echo: Echo, namespaces: Sequence[str], kubeconfig: Path | None) -> None:
        self._queue = queue
        self._echo = echo
        self._namespaces = namespaces
        self._kubeconfig = kubeconfig
        self._known: set[Key] = set()

    async def run(self, stop_on_signals: Callable[[], None]) -> None:
        """Until cancelled. Kopf takes SIGTERM and SIGINT for itself; ``stop_on_signals`` takes them back."""
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(),
            namespaces=tuple(self._namespaces),
            clusterwide=not self._namespaces,
            standalone=True,
            identity=IDENTITY,
        )
        stop_on_signals()
        await kopf.run_tasks(tasks, ignored=others)
        raise ClusterError("kopf has stopped watching")

    async def resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            for key in sorted(self._known):
                self._queue.add(key)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_login(self._kubeconfig))
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self._owner_seen)
        return registry

    async def _owner_seen(self, namespace: str, name: str, event: Any, **_: Any) -> None:
        key = Key(namespace, name)
        self._echo.heard(key)
        if event["type"] == "DELETED":
            self._known.discard(key)
        else:
            self._known.add(key)
        self._queue.add_soon(key)


class _NothingToCompare(kopf.MultiDiffBaseStorage):  # type: ignore[misc]  # kopf is not followed
    """Kopf would copy each object deeply to tell handlers of changes what has changed; there are none."""

    def __init__(self) -> None:
        super().__init__([])

    def build(self, **_: Any) -> Any:
        return {}


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # the kinds are known, and looking for new CRDs needs cluster-wide rights
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _NothingToCompare()
    settings.queueing.idle_timeout = WORKER_SECONDS
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    return settings


def _login(kubeconfig: Path | None) -> Callable[..., Awaitable[kopf.ConnectionInfo | None]]:
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        if kubeconfig is None:
            return kopf.login_with_service_account(**kwargs)
        return kopf.login_with_kubeconfig(**kwargs)

    return login
