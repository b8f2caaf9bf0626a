"""Scoring as the command does it, in this process or in one that may be killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from modelramp_server.scoring.command import Status, predict
from modelramp_server.settings import PredictSettings

# A part of four rows instead of thousands, so that small files have several.
_SMALL_PARTS = """
import sys
from modelramp_server import cli
from modelramp_server.scoring import csv_table
csv_table.CsvTable.rows_a_part = 4
cli.main(["predict", *sys.argv[1:]])
"""


def scored(model: Path, source: Path, output: Path, **settings: Any) -> Status:
    """Run the command here."""
    return predict(PredictSettings(model_path=str(model), predict_input=source, predict_output=output, **settings))


def command(model: Path, source: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    arguments = ["--model", str(model), "--input", str(source), "--output", str(output), *flags]
    return subprocess.run(
        [sys.executable, "-c", _SMALL_PARTS, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def summary(output: Path) -> Any:
    """The summary that it left."""
    return json.loads((output / "summary.json").read_text())


def lines(path: Path) -> list[Any]:
    """The documents of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(output: Path) -> list[str]:
    """What is in the folder, but for what every run leaves."""
    names = [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()]
    return sorted(set(names) - {"run.json", "summary.json"})
