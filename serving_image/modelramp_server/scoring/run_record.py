"""What is being scored with what, written first of all: a later run goes on only if it is the same, and alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson

from modelramp_server.model_store import locks
from modelramp_server.scoring.whole import NEW, write_json
from modelramp_server.settings import InvalidSettings

RECORD = "run.json"
_LOCK = ".lock"
_FIRST = (_LOCK, f"{RECORD}{NEW}", RECORD)  # what a run that has just begun has in its folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Have the folder, which is made if it is not there, for one run at a time.

    Raises:
        InvalidSettings: another run is at work in it, or it is for something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidSettings(f"PREDICT_OUTPUT (--output) is a file, {folder}; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RECORD).is_file() and any(path.name not in _FIRST for path in folder.iterdir()):
        raise InvalidSettings(f"PREDICT_OUTPUT (--output), {folder}, holds other files; name a new or empty folder")
    with locks.if_free(folder / _LOCK) as free:
        if not free:
            raise InvalidSettings(
                f"another run is at work in PREDICT_OUTPUT (--output), {folder}; wait for it, or name another folder"
            )
        yield


def claim(folder: Path, run: Mapping[str, object]) -> None:
    """Make the folder this run's, or find that it is.

    Raises:
        InvalidSettings: it holds another run.
    """
    if not (folder / RECORD).is_file():
        write_json(folder / RECORD, run)
        return
    try:
        before = orjson.loads((folder / RECORD).read_bytes())
    except orjson.JSONDecodeError:
        raise InvalidSettings(f"{folder / RECORD} can't be read; name another folder") from None
    others = list(_differences(run, before))
    if others and not any(path.is_file() and path.name not in (RECORD, _LOCK) for path in folder.rglob("*")):
        write_json(folder / RECORD, run)  # nothing was done with the other one
    elif others:
        raise InvalidSettings(
            f"PREDICT_OUTPUT (--output), {folder}, holds another run: {'; '.join(others)}. Name another folder, or "
            "remove this one"
        )


def _differences(run: Mapping[str, object], before: Mapping[str, object]) -> Iterator[str]:
    if run["digest"] != before.get("digest"):
        yield f"the model was {before.get('model')} ({before.get('digest')}), is {run['model']} ({run['digest']})"
    for name in run.keys() - {"model", "digest"}:
        if run[name] != before.get(name):
            yield f"{name} was {before.get(name)!r}, is {run[name]!r}"
