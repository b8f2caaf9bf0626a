"""What a run comes to, for people (tables) and for programs (JSON)."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .rounds import CONNECTIONS, ROUNDS, Results, Spread, Target, p50_difference, throughput_ratio
from .wrk import Load

MLFLOW, CEILING = "MLflow /invocations", "bare uvicorn"
_PACKAGES = ("modelramp", "mlflow", "uvicorn", "uvloop", "orjson", "onnxruntime", "scikit-learn", "skops")


@dataclass(frozen=True)
class Report:
    """A run's results. `direct` and `relayed` are the two targets whose difference is the relay's cost."""

    results: Results
    targets: list[Target]
    direct: Target
    relayed: Target
    relayed_outcomes: Mapping[str, int]
    seconds: int
    load_before: float
    load_after: float
    wrk: str
    cpu: str = field(default_factory=lambda: _cpu())

    def tables(self) -> Group:
        """For a screen."""
        machine = f"{self.cpu}; 1-minute load {self.load_before:.1f} before, {self.load_after:.1f} after"
        how = f"{ROUNDS} rounds of {self.seconds} s each, interleaved: median, and lowest–highest round"
        return Group(Text(machine), Text(how), *map(self._servers, CONNECTIONS), self._relay(), Text(self._failures()))

    def document(self) -> dict[str, Any]:
        """For a file: every sample, and the figures of the tables."""
        return {
            "machine": {"cpu": self.cpu, "load_before": self.load_before, "load_after": self.load_after},
            "versions": {"wrk": self.wrk, **{name: version(name) for name in _PACKAGES}},
            "rounds": ROUNDS,
            "seconds": self.seconds,
            "servers": [self._figures(n, target) for n in CONNECTIONS for target in self._at(n) if not target.relay],
            "relay": {
                "direct_p50_ms": asdict(self._p50(self.direct)),
                "relayed_p50_ms": asdict(self._p50(self.relayed)),
                "difference_ms": asdict(self._relay_costs()),
                "outcomes": dict(self.relayed_outcomes),
            },
            "samples": [
                {"server": s.target.server, "model": s.target.model, "connections": s.connections, "round": s.round}
                | asdict(s.load)
                for s in self.results.samples
            ],
        }

    def _servers(self, connections: int) -> Table:
        title = f"{connections} connection{'s' if connections > 1 else ''}, one image a request"
        table = Table("server", title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in ("requests/s", "p50 ms", "p99 ms", "x MLflow", "x ceiling"):
            table.add_column(column, justify="right", no_wrap=True)
        for target in self._at(connections):
            if not target.relay:
                found = self._figures(connections, target)
                columns = ("requests_per_second", "p50_ms", "p99_ms", "times_mlflow", "times_ceiling")
                table.add_row(f"{target.server}\n[dim]{target.model}[/]", *(_words(found[name]) for name in columns))
        return table

    def _figures(self, connections: int, target: Target) -> dict[str, Any]:
        def spread(figure: Callable[[Load], float]) -> dict[str, float]:
            return asdict(self.results.spread(target, connections, figure))

        return {
            "connections": connections,
            "model": target.model,
            "server": target.server,
            "requests_per_second": spread(lambda load: load.per_second),
            "p50_ms": spread(lambda load: load.p50_ms),
            "p99_ms": spread(lambda load: load.p99_ms),
            "times_mlflow": self._times(connections, target, self._peer(MLFLOW, target.model)),
            "times_ceiling": self._times(connections, target, self._peer(CEILING, "")),
            "failed": sum(load.failed for load in self.results.loads(target, connections)),
        }

    def _times(self, connections: int, target: Target, peer: Target | None) -> dict[str, float] | None:
        if peer is None or peer == target:
            return None
        return asdict(self.results.compared(target, peer, connections, throughput_ratio))

    def _peer(self, server: str, model: str) -> Target | None:
        return next((t for t in self.targets if (t.server, t.model) == (server, model)), None)

    def _relay(self) -> Table:
        title = f"Relay: {self.direct.name}, 1 connection, p50"
        table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in ("direct ms", "relayed ms", "difference ms", "answered by the candidate"):
            table.add_column(column, justify="right")
        spreads = (self._p50(self.direct), self._p50(self.relayed), self._relay_costs())
        given, dealt = self.relayed_outcomes.get("ok", 0), sum(self.relayed_outcomes.values())
        table.add_row(*(_words(asdict(spread)) for spread in spreads), f"{given:,} of {dealt:,}")
        return table

    def _failures(self) -> str:
        failed = [s for s in self.results.samples if s.load.failed]
        words = [f"{s.load.failed} of {s.target.name} at {s.connections} (round {s.round + 1})" for s in failed]
        return f"Requests that failed: {'; '.join(words) or 'none'}."

    def _p50(self, target: Target) -> Spread:
        return self.results.spread(target, 1, lambda load: load.p50_ms)

    def _relay_costs(self) -> Spread:
        return self.results.compared(self.relayed, self.direct, 1, p50_difference)

    def _at(self, connections: int) -> list[Target]:
        return [target for target in self.targets if self.results.loads(target, connections)]


def _words(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    middle, low, high = (_short(spread[name]) for name in ("median", "low", "high"))
    return f"{middle}\n[dim]{low}–{high}[/]"


def _short(number: float) -> str:
    return f"{number:,.{2 if number < 10 else 1 if number < 100 else 0}f}"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores, {names[0] if names else 'unknown model'}"
