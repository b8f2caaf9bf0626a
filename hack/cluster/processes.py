"""Long-running processes, each with a record on disk that says which process it is.

A record holds the pid, the kernel's start time of that pid and the boot it belongs to, so a pid that was given
to someone else since is never signalled. The child writes its own record before it becomes the program: a run
killed in between leaves no process that nobody knows of.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import ClusterError
from state import Cluster, write

POLL = 0.05
THREADS, STARTED = 16, 18  # of the fields after the state in proc_pid_stat(5)


@dataclass(frozen=True)
class Process:
    cluster: Cluster
    name: str

    @property
    def log(self) -> Path:
        return self.cluster.logs / f"{self.name}.log"

    @property
    def _record(self) -> Path:
        return self.cluster.folder / "processes" / f"{self.name}.json"

    def pid(self) -> int | None:
        """The pid where the recorded process still runs, else None."""
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        pid = int(record["pid"])
        return pid if record == _identity(pid) else None

    def start(
        self,
        command: Sequence[object],
        *,
        environment: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        enter: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the program unless it runs. `enter` runs in the child before it (to join a cgroup, say)."""
        if self.pid() is not None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)

        def become() -> None:
            enter()
            write(self._record, json.dumps(_identity(os.getpid())))

        with self.log.open("ab") as log:
            subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                cwd=self.cluster.folder,
                start_new_session=True,
                pass_fds=pass_fds,
                preexec_fn=become,
            )

    def stop(self, patience: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `patience` seconds; forgets the process."""
        for sent, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            pid = self.pid()
            if pid is None:
                break
            os.kill(pid, sent)
            deadline = time.monotonic() + wait
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(POLL)
        self._record.unlink(missing_ok=True)

    def await_(self, ready: Callable[[], bool], seconds: float) -> None:
        """Poll until `ready`. Raises ClusterError with the end of the log on a death or a timeout."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid() is None:
                raise ClusterError(f"{self.name} ended early.\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} was not ready within {seconds:.0f} s.\n{self._last_lines()}")
            time.sleep(POLL)

    def _last_lines(self, count: int = 15) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-count:] if self.log.exists() else []
        return "\n".join([*(f"    {line[:300]}" for line in lines), f"  The whole log: {self.log}"])


def recorded(cluster: Cluster) -> list[Process]:
    """Every process with a record, running or not."""
    return [Process(cluster, path.stem) for path in sorted((cluster.folder / "processes").glob("[!.]*.json"))]


def _identity(pid: int) -> dict[str, object] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    if state in "ZX" and int(fields[THREADS]) <= 1:  # a dead main thread's siblings still hold what it had open
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"pid": pid, "started": fields[STARTED], "boot": boot}
