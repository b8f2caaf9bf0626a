"""``python -m tests.bench.overload``: ten times what the server can do, by clients that do not wait for each other.

Bars: 0.9 of the capacity still answered in time, p99 of what is taken within the budget, all else refused by 503.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from . import bodies, models, open_loop
from .bodies import Post
from .servers import HOST, BenchFailed, Server, Servers

BUDGET = 1.0  # seconds
TIMES = 10
CLOSED_SECONDS, RAMP, SECONDS = 4.0, 1.0, 10.0


@dataclass(frozen=True)
class Outcome:
    """One run."""

    rows: int
    capacity: float
    offered: float
    goodput: float
    p50: float
    p99: float
    codes: dict[str, int]
    retry_after: list[int]

    @property
    def holds(self) -> bool:
        """Whether the bars do."""
        return self.goodput >= 0.9 * self.capacity and self.p99 <= BUDGET and set(self.codes) <= {"200", "503"}

    def __str__(self) -> str:
        codes = ", ".join(f"{count:,} x {code}" for code, count in sorted(self.codes.items()))
        return (
            f"{self.rows} rows a forward: capacity {self.capacity:.0f}/s, offered {self.offered:,.0f}/s; "
            f"goodput {self.goodput:.0f}/s = {self.goodput / self.capacity:.3f} of it; "
            f"taken: p50 {self.p50 * 1000:.0f} ms, p99 {self.p99 * 1000:.0f} ms of {BUDGET * 1000:.0f}; {codes}; "
            f"Retry-After {self.retry_after}: {'holds' if self.holds else 'DOES NOT HOLD'}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overload", description=__doc__)
    parser.add_argument("--rows", type=int, default=1, help="of a forward of 10 ms: 100 requests a second each")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelramp-bench-")))
            model = models.tiny(folder / "tiny")
            post = bodies.v2(model)
            flags = {"batch-size": str(arguments.rows), "request-timeout": "5"}
            server = Servers(stack, folder).modelramp(model.folder, program="tests.bench.ten_ms", **flags)
            server.ask(post)
            holds = True
            for _ in range(arguments.rounds):
                outcome = run(server, post, arguments.rows)
                holds &= outcome.holds
                console.print(f"{outcome}; 1-minute load {os.getloadavg()[0]:.1f}")
    except BenchFailed as failure:
        console.print(str(failure), style="red", markup=False)
        return 1
    return 0 if holds else 1


def run(server: Server, post: Post, rows: int) -> Outcome:
    """Measure the capacity, then offer ten times of it."""
    port = int(server.address.rsplit(":", 1)[1])
    request = open_loop.post(post.path, post.body, BUDGET)
    start = time.monotonic()
    full = open_loop.closed(HOST, port, request, 4 * rows, CLOSED_SECONDS)
    capacity = full.per_second(start + RAMP, start + CLOSED_SECONDS, BUDGET)
    start = time.monotonic()
    answers = open_loop.opened(HOST, port, request, TIMES * capacity, SECONDS)
    return Outcome(
        rows=rows,
        capacity=capacity,
        offered=answers.offered / SECONDS,
        goodput=answers.per_second(start + RAMP, start + SECONDS, BUDGET),
        p50=answers.percentile(0.5),
        p99=answers.percentile(0.99),
        codes=dict(answers.codes),
        retry_after=sorted(answers.retry_after),
    )


if __name__ == "__main__":
    sys.exit(main())
