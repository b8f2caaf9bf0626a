"""MEMORY_LIMIT: requests are refused shortly before the kernel would end the process, and with it every request.

Memory that only this process holds is watched: pages of files (libraries, mapped weights) the kernel takes back by
itself. What requests may take is what the limit leaves beside the idle server, model and all. What Python frees its
allocator keeps, so it is told to give that back before more requests are refused.
"""

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

from modelramp_server.protocol.errors import ShortOfMemory

SHED, RESUME = 0.75, 0.6
"""Of what the limit leaves to requests: where refusing begins, and where it ends."""
_PERIOD = 0.1
_TRIM_EVERY = 10
_STATM = Path("/proc/self/statm")
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_PAGE = os.sysconf("SC_PAGE_SIZE")

log = logging.getLogger(__name__)


def own_bytes() -> int:
    """Bytes of memory that this process alone holds; 0 where the system (no Linux) does not say."""
    try:
        _, resident, shared, *_ = _STATM.read_text().split()
    except FileNotFoundError:
        return 0
    return (int(resident) - int(shared)) * _PAGE


def container_limit(files: tuple[Path, ...] = _CGROUP) -> int:
    """Bytes that the container may hold; 0 where nothing limits it."""
    for file in files:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        machine = os.sysconf("SC_PHYS_PAGES") * _PAGE
        return int(text) if text != "max" and int(text) < machine else 0
    return 0


class MemoryWatch:
    """`shedding` says whether memory is short. The only request of the server is always taken: refusing it would free
    nothing, and a model that fills its limit by itself would never answer again."""

    def __init__(self, limit: int, others: Callable[[], int], read: Callable[[], int] = own_bytes) -> None:
        """
        Args:
            limit: bytes; 0 for none.
            others: how many requests there are, the one that asks included.
        """
        self.limit = limit
        self._idle = 0
        self.used = 0
        self.shedding = False
        self._others = others
        self._read = read
        self._looks = 0

    def check(self) -> None:
        """Refuse a request, before its body is read, while memory is short.

        Raises:
            ShortOfMemory: try later.
        """
        if self.shedding and self._others() > 1:
            raise ShortOfMemory(self.used, self.limit)

    def check_now(self) -> None:
        """The same by what is used at this moment: before a step that takes a lot of it. Any thread may ask.

        Raises:
            ShortOfMemory: try later.
        """
        if self.limit and (used := self._read()) >= self._mark(SHED) and self._others() > 1:
            raise ShortOfMemory(used, self.limit)

    async def watch(self) -> None:
        """Look ten times a second, until cancelled."""
        while self.limit:
            self.look()
            await asyncio.sleep(_PERIOD)

    def look(self) -> None:
        """Decide by what is used now."""
        self.used = self._read()
        if not self._others():
            self._idle = min(self.used, self.limit)
        if self.used >= self._mark(SHED) or self.shedding:
            self._give_back()
        if not self.shedding and self.used >= self._mark(SHED):
            self.shedding = True
            log.warning("memory is short, refusing requests: %d of %d bytes (MEMORY_LIMIT)", self.used, self.limit)
        elif self.shedding and self.used < self._mark(RESUME):
            self.shedding = False
            log.warning("memory is enough again: %d of %d bytes", self.used, self.limit)

    def _mark(self, share: float) -> float:
        return self._idle + share * (self.limit - self._idle)

    def _give_back(self) -> None:
        """Hand freed memory back to the kernel; once a second, as it takes milliseconds."""
        self._looks += 1
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None and self._looks % _TRIM_EVERY == 1:
            trim(0)
            self.used = self._read()
