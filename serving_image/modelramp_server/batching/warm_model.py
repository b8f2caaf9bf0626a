"""A model that is warm, with what has been learnt of its speed. Whoever runs it, its thread or the event loop, does so
here: never both at one time but for `Beside`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelramp_server.batching.forward import groups, run
from modelramp_server.batching.jobs import Job, JobQueue
from modelramp_server.batching.row_cost import RowCost
from modelramp_server.batching.row_limit import RowLimit
from modelramp_server.runtime.base import Runtime, computes_here

Settle = Callable[[list[Job]], None]


@dataclass(frozen=True, slots=True)
class Observer:
    """Who is told of forwards, from one thread: the rows of each, and the jobs and the time when it began."""

    rows: Callable[[int], None]
    waited: Callable[[Sequence[Job], float], None]


class WarmModel:
    """`began` is when the forward under way began, by the monotonic clock; None between forwards."""

    def __init__(
        self,
        runtime: Runtime,
        limit: RowLimit,
        queue: JobQueue,
        observer: Observer,
    ) -> None:
        self.limit = limit
        self.queue = queue
        self.began: float | None = None
        self._runtime = runtime
        self._computes = computes_here(runtime)
        self._observer = observer
        self._held = RowCost(limit.seconds_per_row)
        queue.seconds_per_row = limit.seconds_per_row

    @property
    def held_per_row(self) -> float:
        """What a row takes of its thread, in seconds of CPU time, when there is no lack of rows.

        By the clock it would depend on which thread that is: beside a busy event loop each operator of torch waits for
        its turn in the interpreter.
        """
        return self._held.seconds

    def answer(self, jobs: list[Job], most: int, full: bool, settle: Settle) -> None:
        """Put outputs or an error into each job.

        Args:
            most: rows at most in a forward.
            full: whether more may wait than these.
            settle: told the jobs of each forward, once it is over.
        """
        self._observer.waited(jobs, time.monotonic())
        for group in groups(jobs, most):
            began, held = time.monotonic(), time.thread_time()
            self.began = began
            rows = run(self._runtime, group, self._observer.rows)
            self.began = None
            if rows:
                held, took = time.thread_time() - held, time.monotonic() - began
                self._held.observe(held, rows, full)
                self.limit.observe(rows, took, held if self._computes else took, full)
                self.queue.seconds_per_row = self.limit.seconds_per_row
            settle(group)


class Beside:
    """The same model, run on the event loop for a job while its thread runs others; nothing is learnt of that. `began`
    as of WarmModel."""

    def __init__(self, runtime: Runtime, observer: Observer) -> None:
        self.began: float | None = None
        self._runtime = runtime
        self._observer = observer

    def answer(self, job: Job) -> None:
        """Put outputs or an error into it."""
        self.began = time.monotonic()
        self._observer.waited((job,), self.began)
        run(self._runtime, [job], self._observer.rows)
        self.began = None
