"""``make bench``: this server, MLflow's own and a bare one under the same load, in one run. Judges nothing: exits 0."""

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from . import models, wrk
from .report import CEILING, MLFLOW, Report
from .rounds import CONNECTIONS, Results, Sample, Target, plan
from .servers import ROOT, BenchFailed, Relay, Server, Servers

OUTCOME = ROOT / ".demo" / "bench.json"
INTERRUPTED = 130
V2, INVOCATIONS = "/v2/models/digits/infer", "/invocations"
WARM_CONNECTIONS = max(CONNECTIONS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each of the rounds (%(default)s)")
    seconds = max(1, parser.parse_args().seconds)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    try:
        with ExitStack() as stack:
            report = measure(console, stack, seconds)
    except BenchFailed as failure:
        console.print(str(failure), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    OUTCOME.parent.mkdir(exist_ok=True)
    OUTCOME.write_text(json.dumps(report.document(), indent=1) + "\n")
    console.print(report.tables())
    console.print(f"All samples: {OUTCOME.relative_to(ROOT)}", highlight=False)
    return 0


def measure(console: Console, stack: ExitStack, seconds: int) -> Report:
    """Everything, servers and all. Raises BenchFailed."""
    generator = wrk.ensure(console.print)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelramp-bench-")))
    console.print("training and saving the models, starting the servers")
    bench = Bench(stack, folder)
    before = os.getloadavg()[0]
    samples = bench.run(seconds)
    return Report(
        results=Results(samples),
        targets=bench.targets,
        direct=bench.direct,
        relayed=bench.relayed,
        relayed_outcomes=bench.relay.server.relayed(),
        seconds=seconds,
        load_before=before,
        load_after=os.getloadavg()[0],
        wrk=generator,
    )


class Bench:
    """The servers, up and answering alike."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        """Raises BenchFailed where a server does not start, or two of them answer differently."""
        servers = Servers(stack, folder)
        saved = models.save(folder)
        onnx = saved[0]
        own = [servers.modelramp(model) for model in saved]
        theirs = [servers.mlflow(model) for model in saved]
        bare = servers.ceiling()
        self.relay: Relay = servers.relay(onnx, own[0])
        self.relay.hand_all_over(V2, onnx.v2)
        self._folder = folder
        self.targets: list[Target] = []
        for model, ours, mlflow in zip(saved, own, theirs, strict=True):
            digits = {
                self._add("modelramp V2", model.title, ours, V2, model.v2),
                self._add("modelramp /invocations", model.title, ours, INVOCATIONS, model.invocations),
                self._add(MLFLOW, model.title, mlflow, INVOCATIONS, model.invocations),
            }
            if len(digits) > 1:
                raise BenchFailed(f"the servers of {model.title} answer differently: {sorted(digits)}")
        self._add(CEILING, "", bare, V2, onnx.v2)
        self._add("relayed", onnx.title, self.relay.server, V2, onnx.v2, relay=True)
        self.direct, self.relayed = self.targets[0], self.targets[-1]

    def run(self, seconds: int) -> list[Sample]:
        """Load each target, in turn, in rounds; a second of load before the first warms it up."""
        scripts = {t: wrk.script(self._folder, str(i), t.body) for i, t in enumerate(self.targets)}
        for target in self.targets:
            wrk.load(target.url, scripts[target], 1 if target.relay else WARM_CONNECTIONS, 1)
        steps = list(plan(self.targets))
        shown = track(steps, f"{len(steps)} loads of {seconds} s")
        return [Sample(t, n, i, wrk.load(t.url, scripts[t], n, seconds)) for i, n, t in shown]

    def _add(self, title: str, model: str, server: Server, path: str, body: str, relay: bool = False) -> int:
        self.targets.append(Target(title, model, server.address + path, body, relay))
        return _digit(server.ask(path, body).json)


def _digit(answer: Any) -> int:
    """From a V2 answer, or from MLflow's, with named outputs or without."""
    if "outputs" in answer:
        return int(answer["outputs"][0]["data"][0])
    predictions = answer["predictions"]
    (values,) = predictions.values() if isinstance(predictions, dict) else (predictions,)
    return int(values[0])


if __name__ == "__main__":
    sys.exit(main())
