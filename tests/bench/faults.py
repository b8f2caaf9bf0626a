"""The part `faults`: half of the requests are dealt to a candidate that has one fault. What do clients see of it?

An open loop, for clients do not wait until a fault is over. Half, so that what a fault costs is not hidden behind
the others.
"""

import json
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from . import bodies, open_loop
from .bodies import Post
from .faulty import FAULTS, REFUSES
from .models import Saved
from .pairs import STABLE, Stable
from .servers import HOST, START, BenchFailed, Servers, free_port

WEIGHT = 50
BUDGETS = (2.0, 0.5)  # seconds; more, and less, than the one second that a candidate without a past may take
RATE, SECONDS, BEFORE = 100, 6.0, 2.0
_POLL = 0.01


@dataclass(frozen=True)
class Suffered:
    """What clients and counters say of one fault. Latencies in seconds, of the 200s, from when a request was due."""

    fault: str
    budget: float
    offered: int
    codes: dict[str, int]
    strange: int
    p50: float
    p99: float
    longest: float
    dealt: dict[str, int]
    net: dict[str, int]

    @property
    def errors(self) -> int:
        """Requests without a 200, and answers that the candidate gave."""
        return self.offered - self.codes.get("200", 0) + self.strange

    @property
    def opened(self) -> bool:
        """Whether the breaker kept requests back."""
        return "breaker" in self.net


def run(folder: Path, model: Saved) -> list[Suffered]:
    """One fault after the other, each with servers of its own."""
    turns = [(fault, budget) for fault in FAULTS for budget in BUDGETS]
    return [_suffer(folder, model, *turn) for turn in track(turns, f"faults: {len(turns)} pairs of servers")]


def _suffer(folder: Path, model: Saved, fault: str, budget: float) -> Suffered:
    with ExitStack() as stack:
        servers = Servers(stack, folder)
        port = free_port()
        if fault != REFUSES:
            servers.own(fault, port, "tests.bench.faulty", str(port), fault)
            _await_listener(port)
        post = _asks_for_output(model)
        stable = Stable(servers, model.folder, f"http://{HOST}:{port}")
        stable.server.get("/v2/health/ready")
        request = open_loop.post(post.path, post.body, budget)
        open_loop.opened(HOST, stable.server.port, request, RATE, BEFORE)
        stable.split(WEIGHT)
        answers = open_loop.opened(HOST, stable.server.port, request, RATE, SECONDS)
        return Suffered(
            fault=fault,
            budget=budget,
            offered=answers.offered,
            codes=dict(answers.codes),
            strange=answers.revisions.total() - answers.revisions[STABLE],
            p50=answers.percentile(0.5),
            p99=answers.percentile(0.99),
            longest=answers.percentile(1.0),
            dealt=stable.dealt(),
            net=stable.net(),
        )


def _asks_for_output(model: Saved) -> Post:
    """Names the output, so that a candidate can answer another one."""
    plain = bodies.v2(model)
    return Post(plain.path, json.dumps({**json.loads(plain.body), "outputs": [{"name": "output"}]}).encode())


def _await_listener(port: int) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), 1.0).close()
        except ConnectionRefusedError:
            time.sleep(_POLL)
        else:
            return
    raise BenchFailed("the faulty candidate does not listen")
