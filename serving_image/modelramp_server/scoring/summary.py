"""What a run came to: a file for programs, a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from modelramp_server.scoring.model import Model
from modelramp_server.scoring.tally import Tally
from modelramp_server.scoring.whole import write_json

SUMMARY = "summary.json"
_CLASSES, _FAILURES = 10, 5


def write(output: Path, model: Model, source: Path, noun: str, tally: Tally, files: Sequence[str], **more: Any) -> None:
    """Write it; when it is there, the run is finished. `noun` is what was counted: rows, or images."""
    count = tally.ok + tally.failed
    document = {
        "model": {"name": model.name, "version": model.version, "runtime": model.runtime, "device": model.device},
        "input": source.name,
        "counted": noun,
        noun: count,
        **tally.as_document(),
        **more,
        "files": list(files),
    }
    write_json(output / SUMMARY, document)


def read(output: Path) -> dict[str, Any]:
    """The summary in a folder."""
    return dict(orjson.loads((output / SUMMARY).read_bytes()))


def in_words(summary: Mapping[str, Any], output: Path) -> str:
    """For the terminal."""
    model, noun = summary["model"], summary["counted"]
    name = f"{model['name']} {model['version']}".strip()
    rate = f", {summary['per_second']:,} {noun}/s" if summary.get("per_second") else ""
    lines = [
        f"{summary['input']}: {summary[noun]:,} {noun} by {name} ({model['runtime']} on {model['device']}), "
        f"{summary['failed']:,} failed{rate}"
    ]
    if summary["classes"]:
        shown = [f"{label} {count:,}" for label, count in list(summary["classes"].items())[:_CLASSES]]
        more = len(summary["classes"]) - len(shown)
        lines.append(f"  classes: {', '.join(shown)}{f', and {more:,} more' if more else ''}")
    if summary["not_finite"]:
        lines.append(f"  answers with NaN or an infinity: {summary['not_finite']:,}")
    lines += [f"  failed: {failure}" for failure in summary["failures"][:_FAILURES]]
    return "\n".join([*lines, f"  in {output}: {', '.join([*summary['files'], SUMMARY])}"])
