"""Load by `wrk` (github.com/wg/wrk): a closed loop over kept connections, one thread."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .bodies import Post
from .servers import BenchFailed

_GRACE = 60  # seconds beyond its duration that wrk may take to end
_INSTALL = ["apt-get", "install", "-qy", "--no-install-recommends", "wrk"]
_SCRIPT = """
wrk.method = "POST"
HEADERS
local file = io.open("BODY", "rb")
wrk.body = file:read("*a")
file:close()

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "failed": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What a run of wrk measured. Latencies in milliseconds; `failed` counts errors of sockets, timeouts, 4xx, 5xx."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def ensure(say: Callable[[str], None]) -> str:
    """Have wrk, from Debian's packages; its version.

    Raises:
        BenchFailed: it can't be installed.
    """
    if shutil.which("wrk") is None:
        command = _INSTALL if os.geteuid() == 0 else ["sudo", *_INSTALL]
        say(f"wrk is missing: {' '.join(command)}")
        done = subprocess.run(command, check=False, capture_output=True, text=True) if shutil.which("apt-get") else None
        if done is None or done.returncode:
            raise BenchFailed(f"wrk can't be installed; put it on the PATH. {done.stderr if done else 'No apt-get.'}")
    told = subprocess.run(["wrk", "--version"], check=False, capture_output=True, text=True).stdout
    return told.split(" [")[0].strip()


def script(folder: Path, name: str, post: Post) -> Path:
    """A Lua script that posts this."""
    path, body = folder / f"{name}.lua", folder / f"{name}.body"
    body.write_bytes(post.body)
    headers = "\n".join(f"wrk.headers['{name}'] = '{value}'" for name, value in post.headers.items())
    path.write_text(_SCRIPT.replace("HEADERS", headers).replace("BODY", str(body)))
    return path


def load(url: str, script_file: Path, connections: int, seconds: float) -> Load:
    """One run.

    Raises:
        BenchFailed: wrk failed, or did not end.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout=30s", f"-s{script_file}", url]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + _GRACE)
    except subprocess.SubprocessError as error:
        raise BenchFailed(f"{error}: {getattr(error, 'stderr', '')}") from None
    told = json.loads(done.stdout.splitlines()[-1])
    return Load(
        requests=told["requests"],
        per_second=1e6 * told["requests"] / told["microseconds"],
        p50_ms=told["p50"] / 1000,
        p99_ms=told["p99"] / 1000,
        failed=told["failed"],
    )
