"""The thread that owns the model: it loads it, warms it up, and then answers batches until the queue ends. Where
forwards are short, the event loop runs them in its place (short_forwards.py), and it waits."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from modelramp_server.batching.jobs import JobQueue
from modelramp_server.batching.row_by_row import RowByRow
from modelramp_server.batching.row_limit import RowLimit
from modelramp_server.batching.short_forwards import SHORT, OnTheLoop
from modelramp_server.batching.warm_model import Beside, Observer, WarmModel
from modelramp_server.batching.warmup import Warm, warm_up
from modelramp_server.protocol.params import Params
from modelramp_server.protocol.tensors import TensorSpec
from modelramp_server.runtime.base import (
    LoadFailed,
    ModelProblem,
    Runtime,
    TakesParams,
    TellsClasses,
    WarmupFailed,
    computes_here,
)
from modelramp_server.runtime.cpus import cpus, whole_cpus
from modelramp_server.runtime.mlmodel import MLmodel

Message = TypeVar("Message")

_LONGEST = 0.25
"""Of a request's time: what a forward of several rows may take."""
_STUCK = 3
"""Times a request's time: a forward that runs longer is taken for one that never ends."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What the event loop knows of the model once it is ready; `optional` are the columns that it can do without;
    `fallback` says why it is not on the GPU that was looked for, or is empty; `frames` and `classes` as of
    invocations.Model."""

    runtime: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    named_outputs: bool
    batch_rows: int
    params: Params
    optional: frozenset[str]
    fallback: str
    frames: bool | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Rows at most in a forward, seconds to wait for more, forwards of the warm-up, seconds a request may take;
    whether a pyfunc, which may look across rows in ways that no warm-up shows, is batched at all; and the CPUs that
    forwards share with an event loop."""

    rows: int
    delay: float
    warmup: int
    timeout: float
    pyfunc: bool = False
    cpus: int = 1

    def of(self, runtime: Runtime) -> int:
        """Rows at most for a runtime."""
        return self.rows if runtime.name != "pyfunc" or self.pyfunc else 1


class Watcher(Protocol):
    """Who is told, on the event loop, how the model fares."""

    def ready(self, model: LoadedModel) -> None:
        """Loaded and warm."""

    def failed(self, problem: ModelProblem) -> None:
        """It never will be."""


class ModelThread:
    """Loads in the background, then pulls, runs and answers."""

    def __init__(
        self,
        load: Callable[[], tuple[MLmodel, Runtime]],
        queue: JobQueue,
        limits: BatchLimits,
        observer: Observer,
        beside: Observer,
    ) -> None:
        """`beside` is told of forwards on the event loop while the thread has others."""
        self._load = load
        self._queue = queue
        self._limits = limits
        self._observer = observer
        self._beside_observer = beside
        self._thread: threading.Thread | None = None
        self._model: WarmModel | None = None
        self._beside: Beside | None = None

    def start(self, loop: asyncio.AbstractEventLoop, watcher: Watcher) -> None:
        """Begin to load; tell the watcher on the loop when done. A daemon: a stuck model can't block the exit."""
        self._thread = threading.Thread(target=self._run, args=(loop, watcher), name="model", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Rows at most in a forward now."""
        return self._limits.rows if self._model is None else self._model.limit.rows

    def trouble(self) -> str:
        """Why no more answers will come, in a sentence; "" while they may."""
        thread = self._thread
        if thread is not None and not thread.is_alive():
            return "the thread that runs the model has ended"
        now = time.monotonic()
        began = [at for one in (self._model, self._beside) if one is not None and (at := one.began) is not None]
        if (running := now - min(began, default=now)) < _STUCK * self._limits.timeout:
            return ""
        return f"a forward has been running for {running:.0f} s; REQUEST_TIMEOUT is {self._limits.timeout:g} s"

    def _run(self, loop: asyncio.AbstractEventLoop, watcher: Watcher) -> None:
        try:
            model = self._model = self._prepare(loop, watcher)
        except ModelProblem as problem:
            _tell(loop, watcher.failed, problem)
            return
        pull, delay = self._queue.pull, self._limits.delay
        while (jobs := pull(most := model.limit.next_pull(), delay, self._look_at_the_loop)) is not None:
            full = sum(job.rows for job in jobs) >= most
            model.answer(jobs, most, full, lambda group: _tell(loop, self._queue.settle, group))

    def _look_at_the_loop(self) -> None:
        """End the process where a forward there never ends: nothing else can be answered, nor a signal."""
        if trouble := self.trouble():
            log.critical("the process ends: %s, and holds the event loop", trouble)
            logging.shutdown()
            os._exit(1)

    def _prepare(self, loop: asyncio.AbstractEventLoop, watcher: Watcher) -> WarmModel:
        runtime, loaded, warm = prepare(self._load, self._limits)
        limit = RowLimit(warm.rows, _LONGEST * self._limits.timeout, warm.seconds, warm.costs)
        model = WarmModel(runtime, limit, self._queue, self._observer)
        if computes_here(runtime) and warm.costs.get(1, warm.seconds) <= SHORT and not self._limits.delay:
            if runtime.at_once and warm.threads == 1 and whole_cpus() > 1:
                self._beside = Beside(runtime, self._beside_observer)
            self._queue.short = OnTheLoop(model, self._beside, cpus())
        _tell(loop, watcher.ready, loaded)
        return model


def prepare(load: Callable[[], tuple[MLmodel, Runtime]], limits: BatchLimits) -> tuple[Runtime, LoadedModel, Warm]:
    """Load a model, warm it up and learn how it may be batched. The runtime is the one to call from then on.

    Raises:
        ModelProblem: with the reason of docs/contract.md.
    """
    try:
        model, runtime = load()
    except ModelProblem:
        raise
    except Exception as error:
        log.exception("loading the model failed")
        raise LoadFailed(f"the model can't be loaded: {str(error)[:500]}") from error
    try:
        warm = warm_up(runtime, model.example, limits.warmup, limits.of(runtime), limits.cpus)
        loaded = LoadedModel(
            runtime.name,
            runtime.device,
            runtime.inputs,
            runtime.outputs or warm.outputs,
            runtime.named_outputs,
            warm.rows,
            Params(model.signature.params, isinstance(runtime, TakesParams)),
            frozenset(column.name for column in model.signature.columns if not column.required),
            runtime.fallback,
            model.signature.frames,
            runtime.classes if isinstance(runtime, TellsClasses) else {},
        )
    except ModelProblem:
        raise
    except Exception as error:
        log.exception("warming the model up failed")
        raise WarmupFailed(f"the model failed in its warm-up: {str(error)[:500]}") from error
    return (RowByRow(runtime) if warm.one_row else runtime), loaded, warm


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[Message], None], message: Message) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, message)
