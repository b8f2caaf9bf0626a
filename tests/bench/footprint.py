"""The parts `memory` and `start`: what an idle server holds, and how long it takes until it is ready."""

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from .rounds import Spread
from .servers import ROOT, Servers

IDLE_SECONDS = 3.0
_BARE = "tests.bench.bare_imports"


@dataclass(frozen=True)
class Memory:
    """MiB, resident: of an idle server with the scikit-learn model, and of a process that only imports the packages."""

    idle: list[float]
    bare: list[float]

    @property
    def above(self) -> Spread:
        """The server beyond the packages, in the same round."""
        return Spread.of([idle - bare for idle, bare in zip(self.idle, self.bare, strict=True)])


def memory(folder: Path, model: Path, rounds: int) -> Memory:
    """Each round with processes of its own."""
    idle, bare = [], []
    for _ in track(range(rounds), f"memory: {rounds} servers"):
        with ExitStack() as stack:
            server = Servers(stack, folder).modelramp(model)
            server.get("/v2/health/ready")
            time.sleep(IDLE_SECONDS)
            idle.append(server.memory_mib())
        told = subprocess.run([sys.executable, "-m", _BARE], cwd=ROOT, check=True, capture_output=True, text=True)
        bare.append(float(told.stdout))
    return Memory(idle, bare)


def start(folder: Path, models: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    """Seconds from the process's start to the first 200 of `/v2/health/ready`, by model; files are in the cache."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    turns = [(index, name) for index in range(-1, rounds) for name in models]
    for index, name in track(turns, f"start: {len(turns)} servers"):
        with ExitStack() as stack:
            server = Servers(stack, folder).modelramp(models[name])
            server.get("/v2/health/ready")
            if index >= 0:
                seconds[name].append(time.monotonic() - server.started)
    return seconds
