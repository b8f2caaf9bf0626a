"""A folder of images through the model. What goes wrong with one image is a line of the results, and no more."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelramp_server.batching.forward import concatenated
from modelramp_server.images import KEY
from modelramp_server.images.loading import load as load_images
from modelramp_server.protocol.errors import ServingError
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime import mlmodel
from modelramp_server.scoring import summary
from modelramp_server.scoring.image_folder import Decoded, batches, by_shape, picture_names
from modelramp_server.scoring.isolate import score
from modelramp_server.scoring.journal import RESULTS, Line, ResultJournal
from modelramp_server.scoring.model import Model
from modelramp_server.scoring.pictures import Keeper
from modelramp_server.scoring.progress import progress
from modelramp_server.scoring.stopping import Interrupted, stoppable
from modelramp_server.scoring.tables import Unreadable
from modelramp_server.scoring.tally import Tally
from modelramp_server.settings import PredictSettings

if TYPE_CHECKING:
    from modelramp_server.images.pipeline import ImageInputs, ImagePipeline

Members = Sequence[tuple[str, "ImageInputs"]]

log = logging.getLogger(__name__)


class FolderScoring:
    """What one run needs; `pictures` says what the pictures made of an image are called."""

    def __init__(self, model: Model, pipeline: ImagePipeline, keeper: Keeper, pictures: Mapping[str, str]) -> None:
        self._model = model
        self._pipeline = pipeline
        self._keeper = keeper
        self._pictures = pictures

    def run(
        self, folder: Path, images: Sequence[str], workers: int, journal: ResultJournal, go_on: Callable[[int], bool]
    ) -> bool:
        """Score images, and add their lines to the journal. `go_on` hears how many are done, and says whether to.

        Returns:
            Whether all are done.
        """
        complete, done = True, 0
        with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
            before: list[Line | Future[Line]] = []
            for batch in batches(folder, images, self._pipeline, pool, self._model.batch_rows):
                pending = self._answers(batch, pool)
                _settle(before, journal)  # its pictures were written while the model was busy
                before, done = pending, done + len(batch)
                if not go_on(done):
                    complete = done == len(images)
                    break
            _settle(before, journal)
        return complete

    def _answers(self, batch: Sequence[Decoded], pool: Executor) -> list[Line | Future[Line]]:
        lines: list[Line | Future[Line]] = [_failed(one.name, one.error) for one in batch if one.made is None]
        for group in by_shape(batch):
            start = 0
            for scored in score(self._model, partial(_rows, group), 0, len(group)):
                members = group[start : start + scored.rows]
                start += scored.rows
                if scored.error:
                    lines.append(_failed(members[0][0], scored.error))
                else:
                    lines += self._found(members, scored.outputs, pool)
        return lines

    def _found(self, members: Members, outputs: dict[str, Array], pool: Executor) -> list[Line | Future[Line]]:
        try:
            findings = self._pipeline.find(outputs)
        except ServingError as error:
            if len(members) == 1:
                return [_failed(members[0][0], error.message)]
            rows = ({name: array[row : row + 1] for name, array in outputs.items()} for row in range(len(members)))
            return [line for one, row in zip(members, rows, strict=True) for line in self._found([one], row, pool)]

        def keep(image: str, row: int, made: ImageInputs) -> Line:
            try:
                return self._keeper.keep(image, self._pictures[image], findings, row, made.view)
            except ServingError as error:
                return _failed(image, error.message)

        return [pool.submit(keep, image, row, made) for row, (image, made) in enumerate(members)]


def score_images(model: Model, settings: PredictSettings, folder: Path, images: Sequence[str]) -> None:
    """Score the images that have no answer yet.

    Args:
        folder: of the model.
        images: all that there are, by their paths below the input.

    Raises:
        ModelProblem: what the model declares of images can't be used.
        Unreadable: it declares nothing.
        Interrupted: somebody asked for it.
    """
    source, output = settings.predict_input, settings.predict_output
    pipeline = load_images(mlmodel.read(folder), model.inputs, settings.max_pixels)
    if pipeline is None:
        raise Unreadable(f"the model does not say how an image becomes its input (metadata.{KEY} of MLmodel)")
    journal = ResultJournal(output)
    todo = [image for image in images if not journal.done(image)]
    if len(todo) < len(images):
        log.info("%d images are done already", len(images) - len(todo))
    keeper = Keeper(pipeline, source, output, {name.strip() for name in settings.predict_write.split(",")})
    scoring = FolderScoring(model, pipeline, keeper, picture_names(images))
    began = time.monotonic()
    journal.begin()
    with stoppable() as stop, progress(len(todo), "images") as bar:

        def go_on(done: int) -> bool:
            bar.tell(done, done, journal.failed)
            return not stop.asked

        complete = scoring.run(source, todo, settings.max_workers, journal, go_on)
    journal.close()
    if not complete:
        raise Interrupted(f"{len(journal.lines) - journal.failed:,} images are done")
    journal.finish()
    tally, shares = _tally(journal)
    tally.seconds = time.monotonic() - began
    rate = round(len(todo) / tally.seconds, 1)
    kinds = sorted({name.split("/")[0] + "/" for line in journal.lines.values() for name in line.get("files", ())})
    summary.write(output, model, source, "images", tally, [RESULTS, *kinds], per_second=rate, mean_shares=shares)


def _tally(journal: ResultJournal) -> tuple[Tally, dict[str, float]]:
    """The counts of all lines, and of masks the mean share of each class. A class counts where it was seen."""
    tally, shares = Tally(), Counter[str]()
    masks = 0
    for image in sorted(journal.lines):
        line = journal.lines[image]
        if "error" in line:
            tally.failure(image, line["error"])
            continue
        tally.ok += 1
        if "shares" in line:
            masks += 1
            tally.classes.update(line["shares"].keys())
            shares.update(line["shares"])
        elif "class" in line:
            tally.classes[str(line["class"])] += 1
    return tally, {name: round(total / masks, 6) for name, total in shares.most_common()}


def _settle(pending: Sequence[Line | Future[Line]], journal: ResultJournal) -> None:
    for one in pending:
        journal.add(one.result() if isinstance(one, Future) else one)


def _rows(members: Members, start: int, stop: int) -> dict[str, Array]:
    return concatenated([made.arrays for _, made in members[start:stop]])


def _failed(image: str, error: str) -> Line:
    return {"image": image, "error": error}
