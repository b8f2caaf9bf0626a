"""Tells another system of decisions: one JSON POST for each, signed, tried again, and never in the way of a pass.

What waits is kept in memory and lost with the process, like Events; status.history is what lasts.
"""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from modelramp.api.base import format_time
from modelramp.api.status import HistoryEntry, Status
from modelramp.domain.changes import recorded
from modelramp.domain.snapshot import Decision
from modelramp.ports import Clock, Key

logger = logging.getLogger(__name__)

ALL = "*"
MOST_WAITING = 1000
TRIES = 8
FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0
SECONDS = 10.0
RETRIED = frozenset({408, 425, 429})  # and 5xx

DELIVERED, DROPPED = "delivered", "dropped"


class Undelivered(Exception):
    """``final``: the receiver has refused it, and will again."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class Target:
    """Who is told of which actions (``*``: of all). The file has the key that signs; without one, nothing is signed."""

    url: str
    actions: frozenset[str]
    secret_file: Path | None = None

    @property
    def host(self) -> str:
        """What may be shown of the address: the rest of it is often a secret itself."""
        return urlsplit(self.url).hostname or ""

    def wants(self, action: str) -> bool:
        return action in self.actions or ALL in self.actions


class Notifier:
    """The Observer port, for one target. ``count`` is told how each notification ended."""

    def __init__(
        self,
        target: Target,
        clock: Clock,
        count: Callable[[str, str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._target = target
        self._clock = clock
        self._count = count
        self._sleep = sleep
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MOST_WAITING)

    def decided(self, key: Key, before: Status, decision: Decision) -> None:
        for entry in recorded(before, decision.status):
            if not self._target.wants(entry.action):
                continue
            notice = notification(key, entry, decision.status)
            try:
                self._waiting.put_nowait(notice)
            except asyncio.QueueFull:
                self._drop(notice, f"{MOST_WAITING} others wait already")

    def gone(self, key: Key) -> None:
        pass

    async def run(self) -> None:
        """Delivers in order until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
            while True:
                await self._deliver(session, await self._waiting.get())

    async def _deliver(self, session: aiohttp.ClientSession, notice: dict[str, Any]) -> None:
        delay, trouble = FIRST_BACK_OFF, ""
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(delay)
                delay = min(delay * 2, LONGEST_BACK_OFF)
            try:
                await self._post(session, notice)
                return self._count(self._target.host, DELIVERED)
            except Undelivered as error:
                trouble = str(error)
                if error.final:
                    break
            except Exception as error:  # a strange address raises what it likes, and must not end the operator
                trouble = str(error) or type(error).__name__
        self._drop(notice, trouble)

    async def _post(self, session: aiohttp.ClientSession, notice: dict[str, Any]) -> None:
        """Raises Undelivered, aiohttp.ClientError, OSError (TimeoutError, and an unreadable secret, among them)."""
        body = json.dumps(notice).encode()
        headers = {"Content-Type": "application/json", **self._signature(body)}
        async with session.post(self._target.url, data=body, headers=headers, allow_redirects=False) as answer:
            if answer.status >= 300:
                final = answer.status < 500 and answer.status not in RETRIED
                raise Undelivered(f"answered {answer.status}", final=final)

    def _signature(self, body: bytes) -> dict[str, str]:
        """Over timestamp and body, so that a captured request cannot be sent again later. The key is read anew each
        time: it may be replaced at any time."""
        timestamp = str(int(self._clock.now().timestamp()))
        headers = {"X-Modelramp-Timestamp": timestamp}
        if self._target.secret_file is None:
            return headers
        secret = self._target.secret_file.read_bytes().strip()
        if not secret:
            raise Undelivered(f"{self._target.secret_file} is empty", final=False)
        digest = hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {**headers, "X-Modelramp-Signature": f"sha256={digest}"}

    def _drop(self, notice: dict[str, Any], why: str) -> None:
        self._count(self._target.host, DROPPED)
        named = {"namespace": notice["object"]["namespace"], "mdep": notice["object"]["name"]}
        logger.warning("%s not told of %s: %s", self._target.host, notice["action"], why, extra=named)


def notification(key: Key, entry: HistoryEntry, status: Status) -> dict[str, Any]:
    """One entry of history as the receiver sees it. The id is the same however often it is sent."""
    stable = status.stable
    told = {
        "time": format_time(entry.at),
        "object": {"namespace": key.namespace, "name": key.name},
        "action": entry.action,
        "reason": entry.reason,
        "message": entry.message,
        "phase": status.phase.value,
        "revision": entry.revision,
        "version": entry.version,
        "attempt": entry.attempt,
        "stable": {"revision": stable.revision, "version": stable.version} if stable else None,
    }
    return {"id": hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32], **told}
