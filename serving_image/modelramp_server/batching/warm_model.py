"""A model that is warm, with what has been learnt of its speed. Whoever runs it, its thread or the event loop, does so
here; never both at one time."""

import time
from collections.abc import Callable, Sequence

from modelramp_server.batching.forward import groups, run
from modelramp_server.batching.jobs import Job, JobQueue
from modelramp_server.batching.row_limit import RowLimit
from modelramp_server.runtime.base import Runtime

Settle = Callable[[list[Job]], None]
Waited = Callable[[Sequence[Job], float], None]


_WEIGHT = 0.1


class WarmModel:
    """`began` is when the forward under way began, by the monotonic clock; None between forwards.

    `held_per_row` is what a row takes of the thread that runs the model, in seconds of its CPU time, when there is no
    lack of rows. By the clock it would depend on the thread: beside a busy event loop each operator of torch waits for
    its turn in the interpreter.
    """

    def __init__(
        self,
        runtime: Runtime,
        limit: RowLimit,
        queue: JobQueue,
        observe_rows: Callable[[int], None],
        waited: Waited,
    ) -> None:
        self.limit = limit
        self.queue = queue
        self.began: float | None = None
        self._runtime = runtime
        self._observe_rows = observe_rows
        self._waited = waited
        queue.seconds_per_row = self.held_per_row = limit.seconds_per_row

    def answer(self, jobs: list[Job], most: int, full: bool, settle: Settle) -> None:
        """Put outputs or an error into each job.

        Args:
            most: rows at most in a forward.
            full: whether more may wait than these.
            settle: told the jobs of each forward, once it is over.
        """
        self._waited(jobs, time.monotonic())
        for group in groups(jobs, most):
            began, held = time.monotonic(), time.thread_time()
            self.began = began
            rows = run(self._runtime, group, self._observe_rows)
            self.began = None
            if rows:
                self._hold(time.thread_time() - held, rows, full)
                self.limit.observe(rows, time.monotonic() - began, full)
                self.queue.seconds_per_row = self.limit.seconds_per_row
            settle(group)

    def _hold(self, seconds: float, rows: int, full: bool) -> None:
        cost = seconds / rows
        if full or cost < self.held_per_row:
            self.held_per_row += _WEIGHT * (cost - self.held_per_row)
