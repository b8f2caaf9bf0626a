"""Freeze windows: times in which nothing begins and no weight rises, as the administrator set them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from cronsim import CronSim


@dataclass(frozen=True)
class Freeze:
    """Opens whenever ``schedule`` (five fields of cron, read in ``zone``) says so, and stays open for ``duration``."""

    schedule: str
    duration: timedelta
    zone: ZoneInfo
    namespaces: tuple[str, ...] = ("*",)

    def end(self, now: datetime) -> datetime | None:
        """When the window that is open now closes, in its own zone; None: none is open."""
        local = (now + timedelta(microseconds=1)).astimezone(self.zone)  # cronsim looks strictly before this
        opened = next(CronSim(self.schedule, local, reverse=True))
        closes = opened.astimezone(UTC) + self.duration  # elapsed time, whatever the clocks there do meanwhile
        return closes.astimezone(self.zone) if closes > now else None


def frozen_until(freezes: Iterable[Freeze], namespace: str, now: datetime) -> datetime | None:
    """When the last of the windows closes that are open for this namespace; None: none is."""
    mine = [freeze for freeze in freezes if any(fnmatchcase(namespace, glob) for glob in freeze.namespaces)]
    return max((end for freeze in mine if (end := freeze.end(now))), default=None)
