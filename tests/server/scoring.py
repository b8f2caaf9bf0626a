"""Scoring as the command does it, in this process or in one that may be killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from modelramp_server.scoring.command import Status, predict
from modelramp_server.settings import PredictSettings

# Tables in parts of four rows instead of thousands. Each batch is noted, and at one of them comes a signal.
_WATCHED = """
import os, sys
from pathlib import Path
from modelramp_server import cli
from modelramp_server.scoring import csv_table, image_scoring, table_scoring
csv_table.CsvTable.rows_a_part = 4
notes, at, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def watched(score):
    def noted(*arguments):
        with notes.open("a") as file:
            print("batch", file=file)
        if len(notes.read_text().split()) == at:
            os.kill(os.getpid(), number)
        return score(*arguments)
    return noted
for module in (table_scoring, image_scoring):
    module.score = watched(module.score)
cli.main(["predict", *sys.argv[4:]])
"""


def scored(model: Path, source: Path, output: Path, **settings: Any) -> Status:
    """Run the command here."""
    return predict(PredictSettings(model_path=str(model), predict_input=source, predict_output=output, **settings))


class Watched:
    """The command in processes of their own, one after the other; at the batch `at` of all, one gets the signal."""

    def __init__(self, notes: Path, at: int, number: int) -> None:
        self._notes = notes
        self._script = [sys.executable, "-c", _WATCHED, str(notes), str(at), str(number)]

    def run(self, model: Path, source: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        """Until it ends."""
        command = self._command(model, source, output, *flags)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def begin(self, model: Path, source: Path, output: Path, *flags: str) -> subprocess.Popen[bytes]:
        """Without waiting for its end."""
        return subprocess.Popen(self._command(model, source, output, *flags))

    def _command(self, model: Path, source: Path, output: Path, *flags: str) -> list[str]:
        return [*self._script, "--model", str(model), "--input", str(source), "--output", str(output), *flags]

    @property
    def batches(self) -> int:
        """How many there were."""
        return len(self._notes.read_text().split())


def summary(output: Path) -> Any:
    """The summary that it left."""
    return json.loads((output / "summary.json").read_text())


def lines(path: Path) -> list[Any]:
    """The documents of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(output: Path) -> list[str]:
    """What is in the folder, but for what every run leaves."""
    names = [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()]
    return sorted(set(names) - {".lock", "run.json", "summary.json"})
