"""`modelramp-server predict`: a table or a folder of images, without a server. It ends with an exit status."""

import logging
import sys
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from modelramp_server.model_store import fetch
from modelramp_server.model_store.digest import artifact_files, combined_digest, file_digest
from modelramp_server.runtime.base import ModelProblem, first_line
from modelramp_server.scoring import summary
from modelramp_server.scoring.model import Model
from modelramp_server.scoring.run_record import alone, claim
from modelramp_server.scoring.stopping import Interrupted
from modelramp_server.scoring.tables import SUFFIXES, Unreadable
from modelramp_server.settings import InvalidSettings, PredictSettings

_GOES_ON = "the same command goes on from there"

log = logging.getLogger(__name__)


class Status(IntEnum):
    """Exit statuses beside 2, a setting that can't work. INTERRUPTED is what shells say of Ctrl-C."""

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
    try:
        found = _score(settings)
    except (ModelProblem, InvalidSettings):
        raise
    except Interrupted as interrupted:
        _tell(f"stopped: {interrupted}; {_GOES_ON}")
        return Status.INTERRUPTED
    except Unreadable as problem:
        _tell(str(problem))
        return Status.PROBLEM
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _tell(f"{error.strerror or error}{where}; {_GOES_ON}")
        return Status.PROBLEM
    except Exception as error:
        log.debug("", exc_info=True)
        _tell(f"this should not happen: {type(error).__name__}: {first_line(error)} (LOG_LEVEL=debug says where)")
        return Status.PROBLEM
    print(summary.in_words(found, settings.predict_output))
    return Status.SOME_FAILED if found["failed"] else Status.ALL_SCORED


def _score(settings: PredictSettings) -> dict[str, Any]:
    """The summary, of this run or of one that had finished."""
    source, output = settings.predict_input, settings.predict_output
    _check(source, output)
    with alone(output):
        folder = fetch.local_folder(settings)
        claim(output, _run(settings, folder))
        if source.is_dir():
            _images(settings, folder)
        elif not (output / summary.SUMMARY).is_file():
            from modelramp_server.scoring.table_scoring import score_table

            with Model(settings, folder) as model:
                score_table(model, settings)
        return summary.read(output)


def _tell(text: str) -> None:
    print(f"modelramp-server: {text}", file=sys.stderr)


def _check(source: Path, output: Path) -> None:
    if not source.exists():
        raise InvalidSettings(f"PREDICT_INPUT (--input), {source}, does not exist")
    if not source.is_dir() and source.suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        raise InvalidSettings(f"PREDICT_INPUT (--input), {source}, is neither a folder nor one of {kinds}")
    if output.resolve() in (source.resolve(), source.resolve().parent):
        raise InvalidSettings("PREDICT_OUTPUT (--output) is the folder of the input itself; name another")


def _run(settings: PredictSettings, folder: Path) -> dict[str, object]:
    """What has to be the same for a run to go on. A folder may get more images."""
    source = settings.predict_input
    run: dict[str, object] = {
        "model": f"{settings.name_of(folder)} {settings.model_version}".strip(),
        "digest": _digest(folder),
        "runtime": settings.model_runtime,
        "pyfunc_batching": settings.pyfunc_batching,
        "input": str(source.resolve()),
    }
    if source.is_dir():
        return {**run, "write": settings.predict_write}
    found = source.stat()
    changed = datetime.fromtimestamp(found.st_mtime, UTC).isoformat()
    return {**run, "columns": settings.predict_columns, "input_bytes": found.st_size, "input_modified": changed}


def _digest(folder: Path) -> str:
    """Of the model; Python writes what it compiles of a model's code into the folder."""
    names = [name for name in artifact_files(folder) if "__pycache__" not in name.split("/")]
    return combined_digest((name, file_digest(folder / name)) for name in names)


def _images(settings: PredictSettings, folder: Path) -> None:
    from modelramp_server.scoring.image_folder import images_in
    from modelramp_server.scoring.image_scoring import score_images
    from modelramp_server.scoring.journal import ResultJournal

    images = images_in(settings.predict_input, settings.predict_output.resolve())
    if not images:
        raise Unreadable(f"{settings.predict_input} holds no images; a table is named itself, not its folder")
    journal = ResultJournal(settings.predict_output)
    finished = (settings.predict_output / summary.SUMMARY).is_file() and not journal.failed
    if not finished or not all(map(journal.done, images)):
        with Model(settings, folder) as model:
            score_images(model, settings, folder, images)
