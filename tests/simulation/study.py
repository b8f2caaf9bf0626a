"""Measures the rule and those that others use in all worlds, and writes docs/analysis.md's tables and its plot.

    python -m tests.simulation.study [RUNS]

Minutes on one core. test_evidence_simulation.py holds the rule to its bars in every run, smaller.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np

from tests.simulation.rules import Ended, ours, strikes, z_test
from tests.simulation.worlds import Slow, World

matplotlib.use("svg")
from matplotlib import pyplot

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUNS = 2000
SEED = 20261121
RATES = (0.5, 2, 20, 200)
RULES: dict[str, Callable[..., Ended]] = {"ours": ours, "z-test at each look": z_test, "five bad minutes": strikes}
SHIPPED = {"weights": (10, 50), "seconds": 5, "looks": 720}
STEPS_DONE = 24

HEALTHY = {
    "errors come alone": World(1),
    "in bursts of 3": World(1, cluster=3),
    "in bursts of 10": World(1, cluster=10),
    "in bursts of 30": World(1, cluster=30),
}
CLIENTS = {
    "bursts of 30, dealt request by request (as shipped)": World(20, cluster=30, dealt=True),
    "sticky": World(20, sticky=True),
    "sticky, bursts of 10": World(20, sticky=True, cluster=10),
    "sticky, own error rates differ by 0.5": World(20, sticky=True, uneven=0.5),
    "sticky, by 1": World(20, sticky=True, uneven=1),
    "sticky, by 2": World(20, sticky=True, uneven=2),
}
ERROR_RATES = (0, 0.001, 0.0025, 0.005, 0.0075, 0.01)
TIMES = (1.5, 2, 3, 5, 10)
LATENCY = {
    "as fast, sigma 0.5": (Slow(1), (2, 20, 200)),
    "as fast, sigma 1 (long tail)": (Slow(1, sigma=1), (2, 20, 200)),
    "as fast, p99, sigma 0.5": (Slow(1, quantile=0.99), (2, 20, 200)),
    "1.3x slower": (Slow(1, slower=1.3), (20,)),
    "2x slower: over the margin, under the bound it is rounded up to": (Slow(1, slower=2), (20,)),
    "3x slower, sigma 0.5": (Slow(1, slower=3), (2, 20, 200)),
    "3x slower, sigma 1": (Slow(1, slower=3, sigma=1), (2, 20, 200)),
    "3x slower, p99, sigma 0.5": (Slow(1, slower=3, quantile=0.99), (2, 20, 200)),
    "as fast, 4 pauses of 3 s an hour on each side, 1 hour": (Slow(1, pauses=4, looks=720), (20,)),
    "12 pauses": (Slow(1, pauses=12, looks=720), (20,)),
    "30 pauses": (Slow(1, pauses=30, looks=720), (20,)),
    "12 pauses, weight 50 %, half an hour": (Slow(1, pauses=12, weights=(50, 50), looks=360), (20,)),
    "as fast, 100 ms of hop counted on the candidate's side": (Slow(1, hop=0.1), (20,)),
}


def simulate(world: World | Slow, runs: int) -> Ended:
    return judged(world, runs, {"ours": ours})["ours"]


def judged(world: World | Slow, runs: int, rules: dict[str, Callable[..., Ended]] = RULES) -> dict[str, Ended]:
    print(world, file=sys.stderr, flush=True)
    looks = world.draw(runs, np.random.default_rng(SEED))
    return {rule: judge(looks) for rule, judge in rules.items()}


def percent(*parts: float) -> str:
    return " / ".join(f"{100 * part:.1f}" if 0 < part < 0.1 else f"{100 * part:.0f}" for part in parts) + " %"


def looks(*numbers: float) -> str:
    return " / ".join("-" if np.isinf(number) else f"{number:.0f}" for number in numbers)


def healthy(runs: int, plotted: dict[str, list[float]]) -> Iterator[str]:
    yield "| healthy candidate | " + " | ".join(f"{rule}: aborted" for rule in RULES) + " | ours: Pass at the end |"
    yield "|---|---|---|---|---|"
    rows = [(name, [replace(world, rps=rps) for rps in RATES]) for name, world in HEALTHY.items()]
    rows += [(f"20 rps, {name}", [world]) for name, world in CLIENTS.items()]
    for name, worlds in rows:
        ends = [judged(world, runs) for world in worlds]
        found = {rule: [each[rule] for each in ends] for rule in RULES}
        aborted = {rule: [each.aborted() for each in each_world] for rule, each_world in found.items()}
        for world, *parts in zip(worlds, *aborted.values(), strict=True):
            plotted[f"{name}, {world.rps:g} rps" if len(worlds) > 1 else name] = parts
        passed = percent(*(each.promoted(world.looks) for each, world in zip(found["ours"], worlds, strict=True)))
        yield f"| {name} | {' | '.join(percent(*parts) for parts in aborted.values())} | {passed} |"


def worse(runs: int, plotted: dict[float, list[float]]) -> Iterator[str]:
    yield "| worse candidate | " + " | ".join(f"{rule}: aborted, median look" for rule in RULES) + " |"
    yield "|---|---|---|---|"
    rows = [(f"{times:g}x", [World(rps, times=times) for rps in RATES]) for times in TIMES]
    rows.append(("3x, in bursts of 10", [World(rps, times=3, cluster=10) for rps in RATES]))
    rows.append(("20 rps, 3x after 240 healthy looks", [World(20, times=3, healthy=240, looks=300)]))
    for name, worlds in rows:
        cells, ends = [], [judged(world, runs) for world in worlds]
        for rule in RULES:
            found = [each[rule] for each in ends]
            aborted = [each.aborted(world.healthy) for each, world in zip(found, worlds, strict=True)]
            medians = [each.median_look(world.healthy) for each, world in zip(found, worlds, strict=True)]
            early = [each.early(world.healthy) for each, world in zip(found, worlds, strict=True)]
            cells.append(
                f"{percent(*aborted)}; {looks(*medians)}" + (f"; {percent(*early)} before" if any(early) else "")
            )
            if rule == "ours" and len(worlds) > 1 and "bursts" not in name:
                plotted[worlds[0].times] = aborted
        yield f"| {name} | {' | '.join(cells)} |"


def promoted(runs: int) -> Iterator[str]:
    yield "| healthy, 20 rps, steps as shipped (10 %, then 50 %), looks of 5 s | promoted in an hour | aborted |"
    yield "|---|---|---|"
    worlds = [World(20, stable=stable, **SHIPPED) for stable in ERROR_RATES]
    found = [simulate(world, runs) for world in worlds]
    rates = " / ".join(f"{100 * stable:g}" for stable in ERROR_RATES)
    done = percent(*(each.promoted(STEPS_DONE) for each in found))
    yield f"| both fail {rates} % | {done} | {percent(*(each.aborted() for each in found))} |"


def latency(runs: int) -> Iterator[str]:
    yield "| world | aborts; median look | Pass at the end | requests of the candidate to the first Pass (median) |"
    yield "|---|---|---|---|"
    for name, (world, rates) in LATENCY.items():
        worlds = [replace(world, rps=rps) for rps in rates]
        found = [simulate(each, runs) for each in worlds]
        aborts = f"{percent(*(each.aborted() for each in found))}; {looks(*(each.median_look() for each in found))}"
        passed = percent(*(each.promoted(world.looks) for each in found))
        first = (requests_to_pass(each, w) for each, w in zip(found, worlds, strict=True))
        yield f"| {name}, {' / '.join(map(str, rates))} rps | {aborts} | {passed} | {looks(*first)} |"


def requests_to_pass(found: Ended, world: Slow) -> float:
    first = np.where(found.passing.any(axis=1), found.passing.argmax(axis=1) + 1, np.inf)
    first[(found.failed > 0) & (found.failed < first)] = np.inf
    return float(np.median(first)) * world.seconds * world.rps * world.weights[0] / 100


def plot(healthy: dict[str, list[float]], worse: dict[float, list[float]]) -> None:
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "study", "font.size": 9})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), width_ratios=(3, 2), layout="constrained")
    names = list(healthy)
    for rule, marker in zip(RULES, "o^x", strict=True):
        shares = [100 * healthy[name][list(RULES).index(rule)] for name in names]
        left.plot(shares, names, marker, label=rule, markersize=5)
    left.axvline(5, color="grey", linestyle="--", linewidth=1)
    left.set(xlabel="healthy candidates aborted within 60 looks, % (dashed: alpha)", xlim=(-2, 102))
    left.invert_yaxis()
    left.legend()
    for rps, shares in zip(RATES, zip(*worse.values(), strict=True), strict=True):
        right.plot([f"{times:g}x" for times in worse], [100 * share for share in shares], "o-", label=f"{rps:g} rps")
    right.set(
        xlabel="candidate's errors against stable's 1 %", ylabel="ours: aborted within 60 looks, %", ylim=(-2, 102)
    )
    right.legend()
    figure.savefig(DOCS / "analysis.svg", metadata={"Date": None})


def write(tables: dict[str, list[str]]) -> None:
    """Between the marks that name each table."""
    page = DOCS / "analysis.md"
    text = page.read_text()
    for name, lines in tables.items():
        begin, end = f"<!-- study: {name} -->\n", "<!-- end -->"
        table = "\n".join(lines)
        text, count = re.subn(
            f"{begin}.*?{end}", lambda _, t=f"{begin}{table}\n{end}": t, text, count=1, flags=re.DOTALL
        )
        assert count == 1, f"docs/analysis.md has no mark {begin!r}"
    page.write_text(text)


def main(runs: int) -> None:
    plotted: tuple[dict[str, list[float]], dict[float, list[float]]] = ({}, {})
    tables = {
        "healthy": list(healthy(runs, plotted[0])),
        "promoted": list(promoted(runs)),
        "worse": list(worse(runs, plotted[1])),
        "latency": list(latency(runs // 4)),
    }
    write(tables)
    plot(*plotted)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
