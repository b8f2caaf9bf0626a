"""Copies of models that outlive the process, shared by all processes of a machine or of a volume.

A process keeps a share of the lock of each copy that it uses. Only what nobody uses is removed, the longest unused
first.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelramp_server import sizes
from modelramp_server.model_store import locks
from modelramp_server.model_store.copy import Copy
from modelramp_server.model_store.failures import RegistryUnavailable, disk_full
from modelramp_server.settings import InvalidSettings

log = logging.getLogger(__name__)


class Cache:
    """A folder with one folder per copy. `limit` is in bytes; 0: as much as the disk takes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    @contextmanager
    def copy(self, key: str, what: str) -> Iterator[Copy]:
        """The copy of that key, locked against other fetchers, and from then on in use until this process ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(self._lock(key), what):
            yield self._copy(key)
            self._used(key).touch()
            locks.share_for_good(self._used(key))

    @contextmanager
    def room(self, key: str, needed: int, what: str) -> Iterator[None]:
        """Make room for so many bytes of this key, and keep others from asking meanwhile.

        Raises:
            RegistryUnavailable: all else is in use, and there is no room.
        """
        with locks.exclusive(self._folder / ".lock", "the cache"):
            unused = sorted(self._others(key), key=self._last_used)
            while unused and self._short_of(key, needed):
                self._evict(unused.pop(0))
            if self._exceeded(key, needed):
                raise RegistryUnavailable(
                    f"{what} has no room in the cache {self._folder}: it needs {sizes.shown(needed)}, the rest is in "
                    f"use, and MODEL_CACHE_LIMIT is {sizes.shown(self._limit)}; raise it"
                )
            if needed > shutil.disk_usage(self._folder).free:
                raise disk_full(what, self._folder, needed)
            yield

    def _short_of(self, key: str, needed: int) -> bool:
        return self._exceeded(key, needed) or needed > shutil.disk_usage(self._folder).free

    def _exceeded(self, key: str, needed: int) -> bool:
        if not self._limit:
            return False
        others = sum(max(_on_disk(self._folder / other), self._copy(other).reserved()) for other in self._others(key))
        return others + _on_disk(self._folder / key) + needed > self._limit

    def _evict(self, key: str) -> None:
        with locks.if_free(self._lock(key), self._used(key)) as free:
            if free:
                log.info("removing %s from the cache, to make room", key)
                shutil.rmtree(self._folder / key)

    def _others(self, key: str) -> list[str]:
        return [path.name for path in self._folder.iterdir() if path.is_dir() and path.name != key]

    def _last_used(self, key: str) -> float:
        try:
            return self._used(key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _copy(self, key: str) -> Copy:
        return Copy(self._folder / key / "model")

    def _lock(self, key: str) -> Path:
        return self._folder / f"{key}.lock"

    def _used(self, key: str) -> Path:
        return self._folder / f"{key}.used"


def default_folder() -> Path:
    """Where a cache belongs that nobody placed.

    Raises:
        InvalidSettings: this user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelramp"
    except RuntimeError:
        raise InvalidSettings("MODEL_CACHE (--model-cache) is not set, and this user has no home; set it") from None


def _on_disk(folder: Path) -> int:
    """Bytes of the files in the folder; one may go while they are counted."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_dir() else path.lstat().st_size
        except FileNotFoundError:
            continue
    return total
