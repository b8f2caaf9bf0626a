"""What happens to the object and to the clients, seen as it happens: threads that only watch and remember."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import urllib3
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from modelramp.api.status import Status

from .answers import Answer, Tail
from .kube import GROUP, PLURAL, VERSION, Kube

ROUND = 30  # seconds until a watch is opened anew


@dataclass(frozen=True)
class Change:
    """A status, and when it was seen (seconds since the epoch)."""

    seen: float
    status: Status


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event of the object; `at` is seconds since the epoch."""

    at: float
    kind: str
    reason: str
    message: str


class StoryBroken(Exception):
    """What should have happened did not. ``str(error)`` says what was expected and what stands instead."""


class World:
    """Everything seen so far, in order. Lists only grow, so a reader may keep an index into them."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.events: list[Event] = []
        self.answers: list[Answer] = []
        self._news = threading.Condition()

    @property
    def status(self) -> Status:
        return self.changes[-1].status if self.changes else Status()

    def see(self, status: Status) -> None:
        with self._news:
            self.changes.append(Change(time.time(), status))
            self._news.notify_all()

    def wait(self, what: str, seconds: float, held: Callable[[Status], bool], since: int | None = None) -> Status:
        """The first status for which it holds, from the newest on, or from `changes[since]`: what stands only for a
        moment may be over before anybody waits for it. Raises StoryBroken after `seconds`."""
        deadline = time.monotonic() + seconds
        with self._news:
            begin = max(len(self.changes) - 1, 0) if since is None else since
            while not (found := [change.status for change in self.changes[begin:] if held(change.status)]):
                left = deadline - time.monotonic()
                if left <= 0:
                    now = self.status
                    stands = f"{now.phase.value}, {now.reason}: {now.message}"
                    raise StoryBroken(f"{what}: not within {seconds:.0f} s; the status says {stands}")
                self._news.wait(min(left, 1.0))
            return found[0]


class Watcher:
    """Watches one ModelDeployment, its events and the file of answers until `stop`."""

    def __init__(self, kube: Kube, namespace: str, name: str, world: World) -> None:
        self._kube, self._namespace, self._name, self.world = kube, namespace, name, world
        self._stopped = threading.Event()
        self._watches: list[watch.Watch] = []

    def start(self, tail: Tail) -> None:
        for task in (self._objects, self._events):
            threading.Thread(target=task, daemon=True).start()
        self._reader = threading.Thread(target=self._answers, args=(tail,), daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """Everything written so far has been read when this returns."""
        self._stopped.set()
        for running in self._watches:
            running.stop()
        self._reader.join()

    def _objects(self) -> None:
        seen = ""
        where = (GROUP, VERSION, self._namespace, PLURAL)
        for item in self._watch(self._kube.custom.list_namespaced_custom_object, *where):
            version = item["metadata"]["resourceVersion"]
            if version != seen and item["metadata"]["name"] == self._name:
                seen = version
                self.world.see(Status.model_validate(item.get("status") or {}))

    def _events(self) -> None:
        seen: set[str] = set()
        only = {"field_selector": f"involvedObject.kind=ModelDeployment,involvedObject.name={self._name}"}
        for item in self._watch(self._kube.core.list_namespaced_event, self._namespace, **only):
            version = item["metadata"]["resourceVersion"]
            if version not in seen:
                seen.add(version)
                self.world.events.append(_event(item))

    def _answers(self, tail: Tail) -> None:
        while not self._stopped.wait(0.2):
            self.world.answers.extend(tail.read())
        self.world.answers.extend(tail.read())

    def _watch(self, listing: Callable[..., Any], *where: str, **options: str) -> Iterator[dict[str, Any]]:
        """Objects as they change. Each round begins with what there is, so nothing is missed in between."""
        while not self._stopped.is_set():
            running = watch.Watch()
            self._watches.append(running)
            try:
                for change in running.stream(listing, *where, timeout_seconds=ROUND, **options):
                    if change["type"] != "DELETED":
                        yield change["raw_object"]
            except (ApiException, urllib3.exceptions.HTTPError):
                self._stopped.wait(1.0)
            finally:
                self._watches.remove(running)


def _event(item: dict[str, Any]) -> Event:
    moment = item.get("eventTime") or item.get("lastTimestamp") or item["metadata"]["creationTimestamp"]
    at = datetime.fromisoformat(moment).timestamp()
    return Event(at, item.get("type", "Normal"), item.get("reason", ""), item.get("message", ""))
