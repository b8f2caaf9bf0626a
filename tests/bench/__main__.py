"""``make bench-server``: this server and others under the same load, in one run; the relay; memory; start to
ready; what clients notice of a bad candidate; the verdict on one as good as stable; what bad requests leave behind.

Prints each bar with what was measured. Judges nothing: exits 0.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import rich
from rich.console import Console

from . import alike, bad, faults, footprint, loads, models, report, torch_tiny, wrk
from .relayed import RelayBench
from .report import Report
from .servers import ROOT, BenchFailed, Servers

OUTCOME = ROOT / ".demo" / "bench-server.json"
INTERRUPTED = 130
WIDTH = 150  # characters, where there is no terminal
PARTS = ("tiny", "torch", "cnn", "relay", "memory", "start", "faults", "alike", "bad")


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rich.reconfigure(highlight=False, stderr=arguments.markdown)
    console = rich.get_console()
    if not console.is_terminal:
        console.width = WIDTH
    found = Report(arguments.rounds, arguments.seconds, machine=report.machine())
    try:
        found.machine["wrk"] = wrk.ensure(console.print)
        measure(console, found, arguments.parts)
    except BenchFailed as failure:
        console.print(str(failure), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    found.machine["load_after"] = os.getloadavg()[0]
    OUTCOME.parent.mkdir(exist_ok=True)
    OUTCOME.write_text(json.dumps(found.document(), indent=1) + "\n")
    if arguments.markdown:
        print(report.markdown(found), end="")
    else:
        report.show(console, found)
    console.print(f"All samples: {OUTCOME.relative_to(ROOT)}")
    return 0


def measure(console: Console, found: Report, parts: list[str]) -> None:
    """Fill the report.

    Raises:
        BenchFailed: this repository's own server does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="modelramp-bench-") as name:
        folder = Path(name)
        console.print("saving the models")
        saved = [models.tiny(folder / "tiny"), models.cnn(folder / "cnn")]
        sklearn = models.sklearn(folder / "sklearn")
        contested = [saved[0], torch_tiny.saved(folder / "torch", saved[0]), saved[1]] if "torch" in parts else saved
        for model in contested:
            if model.name in parts:
                with ExitStack() as stack:
                    contest = loads.Contest(Servers(stack, folder), model, console.print)
                    found.loads[model.name] = contest.run(found.rounds, found.seconds)
        with ExitStack() as stack:
            servers = Servers(stack, folder)
            if "relay" in parts:
                found.relay = RelayBench(servers, saved).run(found.rounds, found.seconds)
        if "memory" in parts:
            found.memory = footprint.memory(folder, sklearn, found.rounds)
        if "start" in parts:
            start = {"tiny ONNX": saved[0].folder, "scikit-learn": sklearn}
            found.start = footprint.start(folder, start, found.rounds)
        if "faults" in parts:
            found.faults = faults.run(folder, saved[0])
        if "alike" in parts:
            found.alike = alike.run(folder, saved[0])
        if "bad" in parts:
            found.bad = bad.run(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="of each load (%(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/benchmarks.md")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: no part; the parts are {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    sys.exit(main())
