"""`modelramp-server predict`: a whole file, without a server. What it ends with is told by an exit status."""

import logging
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from modelramp_server.model_store import fetch
from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.scoring.isolate import Scored, score
from modelramp_server.scoring.model import Model
from modelramp_server.scoring.parts import FAILURES, Parts, fill
from modelramp_server.scoring.progress import progress
from modelramp_server.scoring.run_record import SUMMARY, claim
from modelramp_server.scoring.stopping import stoppable
from modelramp_server.scoring.tables import SUFFIXES, Batch, Unreadable, check_rows, open_table
from modelramp_server.scoring.tally import Tally
from modelramp_server.scoring.whole import whole, write_json
from modelramp_server.settings import InvalidSettings, PredictSettings

log = logging.getLogger(__name__)


class Status(IntEnum):
    """Exit statuses beside 2, a wrong setting. INTERRUPTED is what shells say of Ctrl-C."""

    ALL_SCORED = 0
    PROBLEM = 1
    SOME_FAILED = 3
    INTERRUPTED = 130


def predict(settings: PredictSettings) -> Status:
    """Score the input, or what an earlier run has left of it.

    Raises:
        InvalidSettings: what was asked for can't be.
        ModelProblem: why the model can't be loaded.
    """
    source, output = _source(settings.predict_input), settings.predict_output
    if source.resolve().parent == output.resolve():
        raise InvalidSettings("PREDICT_OUTPUT (--output) is the folder of the input itself; name another")
    folder = fetch.local_folder(settings)
    claim(output, _run(settings, source, folder))
    if not (output / SUMMARY).is_file():
        try:
            with Model(settings, folder) as model:
                if not _score_table(model, source, settings):
                    return Status.INTERRUPTED
        except Unreadable as problem:
            print(f"modelramp-server: {problem}", file=sys.stderr)
            return Status.PROBLEM
    summary = orjson.loads((output / SUMMARY).read_bytes())
    print(_in_words(summary, output))
    return Status.SOME_FAILED if summary["failed"] else Status.ALL_SCORED


def _source(path: Path) -> Path:
    if not path.exists():
        raise InvalidSettings(f"PREDICT_INPUT (--input), {path}, does not exist")
    if path.is_dir() or path.suffix not in SUFFIXES:
        raise InvalidSettings(f"PREDICT_INPUT (--input), {path}, is none of {', '.join(SUFFIXES)}")
    return path


def _run(settings: PredictSettings, source: Path, folder: Path) -> dict[str, object]:
    """What has to be the same for a run to go on."""
    found = source.stat()
    return {
        "model": f"{settings.model_name or folder.name} {settings.model_version}".strip(),
        "digest": artifact_digest(folder),
        "runtime": settings.model_runtime,
        "input": str(source.resolve()),
        "input_bytes": found.st_size,
        "input_modified": datetime.fromtimestamp(found.st_mtime, UTC).isoformat(),
        "columns": settings.predict_columns,
    }


def _score_table(model: Model, source: Path, settings: PredictSettings) -> bool:
    """Whether all of it is done."""
    output = settings.predict_output
    columns = [name.strip() for name in settings.predict_columns.split(",") if name.strip()]
    check_rows(model)
    table = open_table(source, model, columns)
    parts = Parts(output / "parts")
    before = parts.rows
    if before:
        log.info("%d rows are done already", before)

    def scored(batch: Batch) -> list[Scored]:
        return score(model, partial(table.inputs, batch), 0, batch.rows)

    with stoppable() as stop, progress(table.total, "rows") as bar:

        def tell(batch: Batch, tally: Tally) -> bool:
            bar.tell(batch.read, batch.first + batch.rows - 1 - before, tally.failed)
            return not stop.asked

        complete = fill(parts, table, model.batch_rows, scored, tell)
    if not complete:
        print(f"stopped: {parts.rows:,} rows are done; the same command goes on from there", file=sys.stderr)
        return False
    files = [*table.merge(parts.folders, output), *_failures(parts, output)]
    write_json(output / SUMMARY, _summary(model, source, parts.tally, files))
    parts.remove()
    return True


def _failures(parts: Parts, output: Path) -> list[str]:
    if not parts.tally.failed:
        return []
    with whole(output / FAILURES) as scratch, scratch.open("wb") as file:
        for part in parts.folders:
            with (part / FAILURES).open("rb") as lines:
                shutil.copyfileobj(lines, file)
    return [FAILURES]


def _summary(model: Model, source: Path, tally: Tally, files: Sequence[str]) -> dict[str, Any]:
    rows = tally.ok + tally.failed
    return {
        "model": {"name": model.name, "version": model.version, "runtime": model.runtime, "device": model.device},
        "input": source.name,
        "rows": rows,
        **tally.as_document(),
        "rows_per_second": round(rows / tally.seconds, 1) if tally.seconds else None,
        "files": list(files),
    }


def _in_words(summary: dict[str, Any], output: Path) -> str:
    model = summary["model"]
    name = f"{model['name']} {model['version']}".strip()
    rate = f", {summary['rows_per_second']:,} rows/s" if summary["rows_per_second"] else ""
    lines = [
        f"{summary['input']}: {summary['rows']:,} rows by {name} ({model['runtime']} on {model['device']}), "
        f"{summary['failed']:,} failed{rate}"
    ]
    if summary["classes"]:
        shown = list(summary["classes"].items())
        more = f", and {len(shown) - 10:,} more" if len(shown) > 10 else ""
        lines.append(f"  classes: {', '.join(f'{label} {count:,}' for label, count in shown[:10])}{more}")
    if summary["not_finite"]:
        lines.append(f"  rows with NaN or an infinity in their answer: {summary['not_finite']:,}")
    lines += [f"  failed: {failure}" for failure in summary["failures"][:5]]
    return "\n".join([*lines, f"  {', '.join(str(output / name) for name in [*summary['files'], SUMMARY])}"])
