"""One forward for several requests: concatenate, run, check, split; one that fails never fails its mates."""

import logging
import time
from collections.abc import Callable, Iterable

import numpy as np
import orjson

from modelramp_server.batching.jobs import LEFT, Job
from modelramp_server.protocol.errors import ClientLeft, ModelFailed, OutOfTime
from modelramp_server.protocol.tensors import Array
from modelramp_server.rate_limit import RateLimit
from modelramp_server.runtime.base import Runtime, TakesParams, with_type

# A model that calls sys.exit() must not end the thread that everybody waits for.
_FAILURES = (Exception, SystemExit)
_traces = RateLimit(1.0, 1.0)  # of each type of exception one a second, however many requests fail

log = logging.getLogger(__name__)


def groups(jobs: Iterable[Job], limit: int) -> list[list[Job]]:
    """Jobs of one key together, in order of arrival, at most `limit` rows each; larger jobs stand alone."""
    open_groups: dict[object, list[Job]] = {}
    rows: dict[object, int] = {}
    done: list[list[Job]] = []
    for job in jobs:
        key = job.key
        group = open_groups.get(key)
        if group is None or rows[key] + job.rows > limit:
            group = open_groups[key] = []
            done.append(group)
            rows[key] = 0
        group.append(job)
        rows[key] += job.rows
    return done


def run(runtime: Runtime, group: list[Job], forward_done: Callable[[int], None]) -> int:
    """Run one group and put outputs or an error into each of its jobs.

    A batch that fails is run again in halves, so that one bad request among 32 costs ten forwards more, not 32.

    Args:
        runtime: the model.
        group: jobs of one key.
        forward_done: told the rows of every forward.

    Returns:
        The rows that someone still waited for.
    """
    alive = _awaited(group)
    if len(alive) == 1:
        _single(runtime, alive[0], forward_done)
    elif alive and not _together(runtime, alive, forward_done):
        half = len(alive) // 2
        return run(runtime, alive[:half], forward_done) + run(runtime, alive[half:], forward_done)
    return sum(job.rows for job in alive)


def _awaited(group: list[Job]) -> list[Job]:
    now = time.monotonic()
    alive = []
    for job in group:
        if LEFT in job.client:
            job.error = ClientLeft()
        elif job.over or job.deadline <= now:
            job.error = OutOfTime(job.budget)
        else:
            alive.append(job)
    return alive


def _together(runtime: Runtime, jobs: list[Job], forward_done: Callable[[int], None]) -> bool:
    rows = sum(job.rows for job in jobs)
    names = jobs[0].inputs
    try:
        inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in names}
        outputs = predicted(runtime, inputs, jobs[0].params)
    except _FAILURES:
        return False
    finally:
        forward_done(rows)
    if any(array.ndim == 0 or array.shape[0] != rows for array in outputs.values()):
        return False
    start = 0
    for job in jobs:
        end = start + job.rows
        job.outputs = type(outputs)({name: array[start:end] for name, array in outputs.items()})
        start = end
    return True


def _single(runtime: Runtime, job: Job, forward_done: Callable[[int], None]) -> None:
    try:
        job.outputs = predicted(runtime, job.inputs, job.params)
    except _FAILURES as error:
        job.error = ModelFailed(f"the model failed on this input: {with_type(error)}")
        if not _traces.take(type(error).__name__):
            log.exception("the model failed on an input")
    finally:
        forward_done(job.rows)


def predicted(runtime: Runtime, inputs: dict[str, Array], params: bytes) -> dict[str, Array]:
    """One forward; `params` as canonical JSON, or b""."""
    if params and isinstance(runtime, TakesParams):
        return runtime.predict_with(inputs, orjson.loads(params))
    return runtime.predict(inputs)


def seconds(runtime: Runtime, parts: list[dict[str, Array]], clock: Callable[[], float] = time.monotonic) -> float:
    """What a forward for so many requests takes, by some clock; to put their rows together is part of it."""
    began = clock()
    runtime.predict(parts[0] if len(parts) == 1 else concatenated(parts))
    return clock() - began


def row_costs(
    runtime: Runtime,
    parts: list[dict[str, Array]],
    times: int,
    of_several: Callable[[Iterable[float]], float],
    clock: Callable[[], float],
) -> dict[int, float]:
    """What a row takes, alone and in company, by the rows of the forward.

    Args:
        parts: rows of so many requests, one of each.
        times: that each forward is run.
        of_several: the one figure for what those took.
    """
    return {
        rows: of_several(seconds(runtime, parts[:rows], clock) for _ in range(times)) / rows for rows in {1, len(parts)}
    }


def concatenated(parts: list[dict[str, Array]]) -> dict[str, Array]:
    """Rows of several inputs (or outputs) one after the other."""
    return type(parts[0])({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
