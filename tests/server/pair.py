"""Two real servers of one model: stable, and the candidate that its split names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.server.served import Served, eventually, split

CANDIDATE = "bbbbbbbb"


def real_pair(
    start: Callable[..., Served],
    folder: Path | None,
    tmp_path: Path,
    theirs: dict[str, Any],
    ours: dict[str, Any],
    **rule: Any,
) -> tuple[Served, Served]:
    """Stable with a split in force (weight 100, if `rule` says nothing else), and the candidate."""
    candidate = start(folder, model_revision=CANDIDATE, model_version="4", **theirs)
    file = tmp_path / "split"
    file.write_text("")
    stable = start(folder, candidate_url=f"http://127.0.0.1:{candidate.port}", traffic_file=file, **ours)
    scratch = file.with_suffix(".new")
    scratch.write_text(split(2, **{"weight": 100, **rule}))
    scratch.replace(file)
    eventually(lambda: stable.metric("modelramp_traffic_generation") == 2)
    return stable, candidate
