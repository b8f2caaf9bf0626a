"""All processes of a session, the way /proc tells of them: to hold them still, to weigh them, to end them."""

import os
import signal
from contextlib import suppress
from pathlib import Path

_SESSION = 3  # of the fields after the name


def of_session(session: int) -> list[int]:
    """The ids of its processes."""
    entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [int(entry.name) for entry in entries if _session(entry) == session]


def send(session: int, number: signal.Signals) -> None:
    """A signal to each of them."""
    for pid in of_session(session):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def memory_mib(session: int) -> float:
    """What they hold in memory, shared pages counted once for each."""
    return sum(map(resident_mib, of_session(session)))


def _session(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[_SESSION])
    except (FileNotFoundError, ProcessLookupError):
        return -1


def resident_mib(pid: int) -> float:
    """Of one process; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)
