"""Forwards of a millisecond run on the event loop itself (ADR 26).

To hand a request to another thread and its answer back costs two wakes, and the interpreter changes hands each time:
ten times of what a small model takes. A loop that is held up for a millisecond at a time harms nobody. Which models
are short is measured at warm-up; one that turns out not to be goes back to the thread. Where several wait and a forward
is long enough for two threads, the thread runs them, and the loop helps it, one at a time, when it has nothing to read.
"""

import logging
import time
from collections.abc import Callable, Sequence

from modelramp_server.batching.jobs import Job
from modelramp_server.batching.warm_model import Beside, WarmModel

SHORT = 0.001  # seconds of CPU time that a forward may take here, for a request that is alone
TOGETHER = 0.0002  # where several wait: the thread's wakes cost no more than this, and the loop may read meanwhile
LONG, IN_A_ROW, AT_ONCE = 0.010, 3, 0.500
"""Seconds: so many forwards here that took so long, one after the other, or one that took the last, send those of the
next `AWAY` seconds to the thread. A single one may only have waited for a busy machine."""
AWAY = 10.0
BEHIND = 16  # jobs that wait for the thread: with so many, and two pulls, it is slower than the event loop

log = logging.getLogger(__name__)


class OnTheLoop:
    """Runs a model whose forwards are short, as jobs.ShortForwards."""

    def __init__(
        self, model: WarmModel, beside: Beside | None, cores: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._beside = beside
        self._alone = cores == 1
        self._clock = clock
        self._away_until = 0.0
        self._long = 0
        self._no_help_until = 0.0

    def rows(self, waiting: Sequence[Job]) -> int:
        """See ShortForwards."""
        first, seconds = waiting[0].rows, self._model.held_per_row
        most = SHORT if len(waiting) == 1 or self._alone else TOGETHER
        if first * seconds > most or self._is_away():
            return 0
        together = int(TOGETHER / seconds) if seconds else self._model.limit.rows
        return max(first, min(self._model.limit.next_pull(), together))

    def run(self, jobs: list[Job], more: bool) -> None:
        """See ShortForwards."""
        began = self._clock()
        rows = sum(job.rows for job in jobs)
        self._model.answer(jobs, rows, more, lambda done: None)
        self._took(self._clock() - began, rows)

    def helps(self, behind: int) -> bool:
        """See ShortForwards."""
        if self._beside is None or behind < max(BEHIND, 2 * self._model.limit.rows):
            return False
        if self._model.held_per_row > SHORT:
            return False
        return not self._is_away() and self._clock() >= self._no_help_until

    def help(self, job: Job) -> None:
        """See ShortForwards."""
        assert self._beside is not None
        began, held = self._clock(), time.thread_time()
        self._beside.answer(job)
        if time.thread_time() - held > LONG:  # the thread takes rows that are unlike the others
            self._no_help_until = self._clock() + AWAY
        self._took(self._clock() - began, job.rows)

    def _is_away(self) -> bool:
        return bool(self._away_until) and self._clock() < self._away_until

    def _took(self, took: float, rows: int) -> None:
        self._long = self._long + 1 if took > LONG else 0
        if self._long == IN_A_ROW or took > AT_ONCE:
            self._long, self._away_until = 0, self._clock() + AWAY
            log.warning(
                "%d rows took the event loop %.0f ms: for %g s the model runs on its thread", rows, took * 1000, AWAY
            )
