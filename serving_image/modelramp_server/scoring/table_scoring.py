"""A table through the model, in parts."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path

from modelramp_server.scoring import summary
from modelramp_server.scoring.isolate import Scored, score
from modelramp_server.scoring.model import Model
from modelramp_server.scoring.parts import FAILURES, Parts, fill
from modelramp_server.scoring.progress import progress
from modelramp_server.scoring.stopping import Interrupted, stoppable
from modelramp_server.scoring.tables import Batch, Unreadable, check_rows, open_table
from modelramp_server.scoring.tally import Tally
from modelramp_server.scoring.whole import whole
from modelramp_server.settings import PredictSettings

log = logging.getLogger(__name__)


def score_table(model: Model, settings: PredictSettings) -> None:
    """Score what is missing of the table.

    Raises:
        Unreadable: the table can't be scored by this model, or not to its end.
        Interrupted: somebody asked for it.
    """
    source, output = settings.predict_input, settings.predict_output
    check_rows(model)
    table = open_table(source, model, [name.strip() for name in settings.predict_columns.split(",") if name.strip()])
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

        if not fill(parts, table, model.batch_rows, scored, tell):
            raise Interrupted(f"{parts.rows:,} rows are done")
    if table.broken and not parts.rows:
        raise Unreadable(table.broken)
    files = [*table.merge(parts.folders, output), *_failures(parts, output)]
    if table.broken:
        raise Unreadable(f"{table.broken}; the rows before it are scored, in {output}: {', '.join(files)}")
    rate = round(parts.rows / parts.tally.seconds, 1) if parts.tally.seconds else None
    summary.write(output, model, source, "rows", parts.tally, files, per_second=rate)
    parts.remove()


def _failures(parts: Parts, output: Path) -> list[str]:
    if not parts.tally.failed:
        return []
    with whole(output / FAILURES) as scratch, scratch.open("wb") as file:
        for part in parts.folders:
            with (part / FAILURES).open("rb") as lines:
                shutil.copyfileobj(lines, file)
    return [FAILURES]
