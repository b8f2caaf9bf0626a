"""Leader election by a coordination.k8s.io/v1 Lease, with client-go's semantics on a monotonic clock.

Clocks of two machines are never compared: a follower takes over when *it* has seen no change of the Lease for the
duration that the holder announced. A leader that has not renewed for ``renew_deadline`` may not write any more, and
that is asked before each write (``may_write``), because a process that was frozen does not know how long. The gap
between the two is longer than a write may take, so that a write begun in time ends before anyone else begins.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from modelramp.ports import Clock, ClusterError, Conflict

logger = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This process is not the leader, or can't be sure to be: it must not write, and should exit."""


@dataclass(frozen=True)
class LeaseRecord:
    """The spec of a Lease, and the resourceVersion that it was read at (empty: to be created)."""

    holder: str
    duration: int  # seconds
    acquired: datetime
    renewed: datetime
    transitions: int = 0
    resource_version: str = ""


class LeaseStore(Protocol):
    """Where the Lease is kept. Both raise ClusterError."""

    async def read(self) -> LeaseRecord | None: ...

    async def write(self, record: LeaseRecord) -> LeaseRecord:
        """Creates or replaces it, guarded by its resourceVersion. Raises Conflict if somebody was faster."""
        ...


@dataclass(frozen=True)
class LeaseTimes:
    """In seconds; client-go's defaults, but that a follower looks more often: a Lease given up is soon taken."""

    duration: int = 15
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    look_period: float = 0.5


class Leader:
    """One candidate of the election, named ``identity``."""

    def __init__(self, store: LeaseStore, clock: Clock, identity: str, times: LeaseTimes | None = None) -> None:
        self._store = store
        self._clock = clock
        self._identity = identity
        self._times = times or LeaseTimes()
        self._held: LeaseRecord | None = None
        self._renewed_at = 0.0
        self._seen: LeaseRecord | None = None
        self._seen_at = 0.0

    @property
    def takes_part(self) -> bool:
        """Whether this process leads, or has seen who does and could take over."""
        return self._held is not None or self._seen is not None

    def may_write(self) -> None:
        """Raises LeaseLost unless this process is the leader beyond doubt."""
        if self._held is None:
            raise LeaseLost(f"{self._identity} does not hold the lease")
        age = self._clock.monotonic() - self._renewed_at
        if age >= self._times.renew_deadline:
            raise LeaseLost(f"{self._identity} has not renewed its lease for {age:.1f} s")

    async def acquire(self) -> None:
        """Returns when this process leads. Tries for ever; what goes wrong is logged once until it changes."""
        trouble = ""
        while True:
            try:
                if await self.attempt():
                    logger.info("leading as %s", self._identity)
                    return
                now = f"waiting for {self._seen.holder} to give up the lease" if self._seen else ""
            except ClusterError as error:
                now = str(error)
            if now and now != trouble:
                logger.info(now)
            trouble = now
            await asyncio.sleep(self._times.look_period)

    async def hold(self) -> None:
        """Renews, after ``acquire``, until that fails for ``renew_deadline`` seconds; then raises LeaseLost."""
        while True:
            await asyncio.sleep(self._times.retry_period)
            try:
                await self.attempt()
            except ClusterError as error:
                logger.warning("lease not renewed: %s", error)
            self.may_write()

    async def attempt(self) -> bool:
        """One try to create, renew or take over the Lease; whether this process leads. Raises ClusterError."""
        started = self._clock.monotonic()
        try:
            current = await self._store.read()
            if current is not None and not self._may_take(current):
                self._held = None
                return False
            self._held = await self._store.write(self._claim(current))
        except Conflict:
            return False
        self._renewed_at = started
        return True

    async def resign_after(self, writing: Awaitable[None]) -> None:
        """Awaits all that writes. However that ends, another may lead then, while the rest is still being closed."""
        try:
            await writing
        finally:
            await self.release()

    async def release(self) -> None:
        """Gives the Lease up, so that another need not wait for it to run out. Failing to is no harm."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            await self._give_up(held)
        except (ClusterError, Conflict) as error:
            logger.info("lease not released: %s", error)

    async def _give_up(self, held: LeaseRecord) -> None:
        """Once more if a renewal was cut off whose answer was not seen: the Lease is still this process's then."""
        try:
            await self._store.write(self._vacant(held))
        except Conflict:
            current = await self._store.read()
            if current is None or current.holder != self._identity:
                raise
            await self._store.write(self._vacant(current))

    def _vacant(self, held: LeaseRecord) -> LeaseRecord:
        return replace(held, holder="", duration=1, renewed=self._clock.now())

    def _may_take(self, current: LeaseRecord) -> bool:
        if self._seen is None or self._seen.resource_version != current.resource_version:
            self._seen, self._seen_at = current, self._clock.monotonic()
        if current.holder in ("", self._identity):
            return True
        return self._clock.monotonic() - self._seen_at >= current.duration

    def _claim(self, current: LeaseRecord | None) -> LeaseRecord:
        now = self._clock.now()
        fresh = LeaseRecord(self._identity, self._times.duration, now, now)
        if current is None:
            return fresh
        if current.holder == self._identity:
            return replace(current, duration=self._times.duration, renewed=now)
        return replace(fresh, transitions=current.transitions + 1, resource_version=current.resource_version)
