"""Locks between processes: flock on files that are never removed, so that all who wait, wait for the same one.

The kernel lets go of a lock when its process ends, however it ends.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock alone, however long another process takes that `what` is told of."""
    handle = _open(path)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is at %s; waiting for it", what)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def if_free(*paths: Path) -> Iterator[bool]:
    """Hold all of the locks alone, if nobody has any of them now."""
    handles = [_open(path) for path in paths]
    try:
        yield all(_taken(handle) for handle in handles)
    finally:
        for handle in handles:
            os.close(handle)


def share_for_good(path: Path) -> None:
    """Share the lock until this process ends."""
    fcntl.flock(_open(path), fcntl.LOCK_SH)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
