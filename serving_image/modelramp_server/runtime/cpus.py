"""How many CPUs this process may use. Libraries count the machine's, and a limit of 2 on a node of 64 then means 64
threads that wait for each other's time slices."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpus(cgroup: Path = _CGROUP) -> int:
    """The CPUs of this process's affinity, and at most the cgroup's limit, rounded up.

    Args:
        cgroup: where the container's own cgroup is mounted, version 2 or 1.
    """
    return max(1, math.ceil(_allowed(cgroup)))


def whole_cpus(cgroup: Path = _CGROUP) -> int:
    """The same rounded down: how many threads may be busy all the time and not be stopped for it."""
    return max(1, math.floor(_allowed(cgroup)))


def _allowed(cgroup: Path) -> float:
    return min(len(os.sched_getaffinity(0)), _limit(cgroup))


def _limit(cgroup: Path) -> float:
    """CPUs' worth of time per period; infinite without a limit."""
    try:
        quota, period = _read(cgroup)
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):
        return math.inf


def _read(cgroup: Path) -> tuple[str, str]:
    """Quota and period in microseconds; the quota is `max` or -1 where there is no limit."""
    if (cgroup / "cpu.max").is_file():
        quota, period = (cgroup / "cpu.max").read_text().split()
        return quota, period
    folder = cgroup / "cpu"
    return (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
