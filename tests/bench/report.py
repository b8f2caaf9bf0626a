"""What a run comes to: rows of tables, for a screen (rich) and for a page (Markdown), and one document for programs."""

import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from . import bars
from .alike import Alike
from .bad import Held
from .bars import Bar
from .faults import WEIGHT, Suffered
from .footprint import Memory
from .loads import Absent, Outcome
from .relayed import RelayOutcome
from .rounds import CONNECTIONS, Results, Spread, Target, per_second

_PACKAGES = ("modelramp", "mlflow", "uvicorn", "uvloop", "orjson", "onnxruntime", "scikit-learn", "skops")


@dataclass(frozen=True)
class Table:
    """A title, names of columns, and rows of as many cells."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass
class Report:
    """What of the parts was measured; the others are None."""

    rounds: int
    seconds: int
    loads: dict[str, Outcome] = field(default_factory=dict)
    relay: RelayOutcome | None = None
    memory: Memory | None = None
    start: dict[str, list[float]] | None = None
    faults: list[Suffered] = field(default_factory=list)
    alike: Alike | None = None
    bad: Held | None = None
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def bars(self) -> list[Bar]:
        """Those of the parts that were measured."""
        found: list[Bar] = []
        for model, of_model in (("tiny", bars.of_tiny), ("torch", bars.of_tiny), ("cnn", bars.of_cnn)):
            if model in self.loads:
                found += of_model(Results(self.loads[model].samples), model)
        found += bars.of_relay(self.relay) if self.relay else []
        found += bars.of_memory(self.memory) if self.memory else []
        found += bars.of_start(self.start) if self.start else []
        found += bars.of_faults(self.faults) if self.faults else []
        found += bars.of_alike(self.alike) if self.alike else []
        return found + list(bars.of_bad(self.bad) if self.bad else [])

    def tables(self) -> Iterator[Table]:
        """All of them."""
        for model, outcome in self.loads.items():
            yield _of_loads(model, Results(outcome.samples))
            if outcome.absent:
                yield _of_absent(model, outcome.absent)
        if self.relay:
            yield _of_relay(self.relay)
        if self.faults:
            yield _of_faults(self.faults)
        if self.alike:
            yield _of_alike(self.alike)
        if self.bad:
            yield _of_bad(self.bad)
        yield _of_bars(self.bars)

    def document(self) -> dict[str, Any]:
        """Every sample."""
        samples = [sample for outcome in self.loads.values() for sample in outcome.samples]
        absent = {model: [asdict(one) for one in outcome.absent] for model, outcome in self.loads.items()}
        return {
            "machine": self.machine,
            "versions": {name: version(name) for name in _PACKAGES},
            "rounds": self.rounds,
            "seconds": self.seconds,
            "loads": [asdict(sample) for sample in samples],
            "absent": absent,
            "relay": asdict(self.relay) if self.relay else None,
            "memory_mib": asdict(self.memory) if self.memory else None,
            "start_seconds": self.start,
            "faults": [asdict(each) for each in self.faults],
            "alike": asdict(self.alike) if self.alike else None,
            "bad_mib": asdict(self.bad) if self.bad else None,
            "bars": [{**asdict(bar), "held": bar.held} for bar in self.bars],
        }

    @property
    def heading(self) -> str:
        """The machine, and how it was measured."""
        told = self.machine
        return (
            f"{told['cpu']}; Python {told['python']}; "
            f"1-minute load {told['load_before']:.1f} before, {told['load_after']:.1f} after; "
            f"{self.rounds} rounds of {self.seconds} s, interleaved: median (lowest–highest round)"
        )


def show(console: Console, report: Report) -> None:
    """On a screen."""
    console.print(report.heading, markup=False)
    for table in report.tables():
        shown = RichTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if index > 1 else "left")
        for row in table.rows:
            shown.add_row(*(cell.replace(" (", "\n(") if index else cell for index, cell in enumerate(row)))
        console.print(shown)


def markdown(report: Report) -> str:
    """For docs/benchmarks.md."""
    parts = [report.heading]
    for table in report.tables():
        lines = [_line(table.columns), _line(["---"] * len(table.columns)), *map(_line, table.rows)]
        parts.append("\n".join([f"### {table.title}", *lines]))
    return "\n\n".join(parts) + "\n"


def machine() -> dict[str, Any]:
    """What it runs on, and how busy that is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} cores, {names[0] if names else 'unknown model'}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _of_loads(model: str, results: Results) -> Table:
    columns = ["server", "asked in"]
    for connections in CONNECTIONS:
        columns += [f"requests/s at {connections}", "p50 ms", "p99 ms"]
    return Table(model, [*columns, "failed"], [_row(results, target) for target in results.targets])


def _row(results: Results, target: Target) -> list[str]:
    cells = [target.server, target.encoding]
    for connections in CONNECTIONS:
        p50 = results.spread(target, connections, lambda load: load.p50_ms)
        p99 = results.spread(target, connections, lambda load: load.p99_ms)
        cells += [_words(results.spread(target, connections, per_second))]
        cells += [_short(spread.median) if spread else "" for spread in (p50, p99)]
    return [*cells, str(sum(sample.load.failed for sample in results.samples if sample.target == target))]


def _of_absent(model: str, absent: list[Absent]) -> Table:
    rows = [[one.server, one.encoding or "all", " ".join(one.why.split())[:200]] for one in absent]
    return Table(f"{model}: not measured", ["server", "asked in", "why"], rows)


def _of_relay(outcome: RelayOutcome) -> Table:
    rows = []
    for model in outcome.models:
        spreads = (outcome.p50(model, False), outcome.p50(model, True), outcome.p50_difference(model))
        rows.append([model, *map(_words, spreads), _words(outcome.kept(model)), _counts(outcome.dealt[model])])
    columns = ["model", "direct p50 ms", "relayed p50 ms", "difference ms", "pair's share at weight 10", "dealt"]
    return Table("relay", columns, rows)


def _of_faults(suffered: list[Suffered]) -> Table:
    columns = ["the candidate", "budget s", "requests", "errors", "p50 ms", "p99 ms", "longest ms", "dealt", "net"]
    rows = []
    for each in suffered:
        times = [_short(1000 * seconds) for seconds in (each.p50, each.p99, each.longest)]
        counts = [_counts(each.dealt), _counts(each.net), "opened" if each.opened else ""]
        rows.append([each.fault, f"{each.budget:g}", f"{each.offered:,}", str(each.errors), *times, *counts])
    return Table(f"faults, at weight {WEIGHT}", [*columns, "breaker"], rows)


def _of_alike(alike: Alike) -> Table:
    columns = ["metric", "looks", "first Pass at look", "candidate: of them bad", "stable: of them bad", "at the end"]
    rows = []
    for metric in dict.fromkeys(look.metric for look in alike.looks):
        looks = alike.of(metric)
        verdicts, last = Counter(look.verdict for look in looks), looks[-1]
        first = next((str(look.look) for look in looks if look.verdict == "Pass"), "none")
        sides = [f"{last.requests:,}: {last.bad:,}", f"{last.stable_requests:,}: {last.stable_bad:,}"]
        rows.append([metric, _counts(verdicts), first, *sides, last.message])
    return Table("alike", columns, rows)


def _of_bad(held: Held) -> Table:
    rows = [[f"{count:,}", f"{mib:.1f}"] for count, mib in held.after.items()]
    return Table("bad", ["bad requests", "MiB resident"], rows)


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in found.items())


def _of_bars(found: list[Bar]) -> Table:
    verdicts = {True: "held", False: "missed", None: "not measured"}
    rows = [[bar.what, bar.wanted, _words(bar.found), verdicts[bar.held]] for bar in found]
    return Table("bars", ["what", "wanted", "measured", ""], rows)


def _words(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{_short(spread.median)} ({_short(spread.low)}–{_short(spread.high)})"


def _short(number: float) -> str:
    return f"{number:,.{2 if abs(number) < 10 else 1 if abs(number) < 100 else 0}f}"
