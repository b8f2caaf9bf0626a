"""Wiring of `modelramp-server serve`: settings in, a serving process out."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from modelramp_server.app import App
from modelramp_server.batching.jobs import JobQueue
from modelramp_server.batching.model_thread import BatchLimits, LoadedModel, ModelThread
from modelramp_server.example import find_example
from modelramp_server.front_door import FrontDoor
from modelramp_server.hot_path import HotPath
from modelramp_server.http_server import HttpServer
from modelramp_server.images.loading import load as load_images
from modelramp_server.images.predict import ROUTE, Predict
from modelramp_server.local_model import Asked, LocalModel
from modelramp_server.memory import MemoryWatch, container_limit, own_bytes
from modelramp_server.observability import outputs
from modelramp_server.observability.metrics import Metrics
from modelramp_server.observability.records import Answering
from modelramp_server.relay.client import ANSWER_LIMIT, CandidateClient
from modelramp_server.relay.shadow import BODY_LIMIT, Shadower
from modelramp_server.relay.split_file import SplitFile
from modelramp_server.relay.traffic import Traffic
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import ModelProblem, Runtime
from modelramp_server.runtime.choice import load
from modelramp_server.runtime.cpus import cpus
from modelramp_server.settings import InvalidSettings, ServeSettings

if TYPE_CHECKING:
    from modelramp_server.rpc.server import RpcServer
    from modelramp_server.upstream.watch import UpstreamWatch

# The default of 5 ms lets a Python-heavy model hold the event loop up for 10 ms at p99.
_SWITCH_INTERVAL = 0.0005
# Libraries with OpenMP (torch, scikit-learn) read it when they are loaded. Without it their idle threads spin for
# milliseconds, on the CPUs that the event loop needs.
_OPENMP_WAITS = "OMP_WAIT_POLICY"

log = logging.getLogger(__name__)


class Service:
    """One serving process: the parts, wired."""

    def __init__(self, settings: ServeSettings, folder: Path | None) -> None:
        """`folder` is the model's; None only with UPSTREAM, where it holds no more than the model's example."""
        self.problem: ModelProblem | None = None
        self._tasks: list[asyncio.Task[None]] = []
        name = settings.name_of(folder) if folder is not None else settings.model_name
        self.metrics = Metrics(name, settings.model_version, settings.model_revision)
        self._front = FrontDoor(settings, name, self.metrics)
        self._upstream: UpstreamWatch | None = None
        self._queue: JobQueue | None = None
        self.local = self._behind(settings, name, folder) if settings.upstream else self._here(settings, name, folder)
        self.local.on_ready = self._ready
        url, own, marks = settings.candidate_url, settings.model_revision, self._front.marks
        self._client = CandidateClient(url, own, marks=marks)
        copies = CandidateClient(url, own, answer_limit=BODY_LIMIT, marks=marks)
        self.shadower = Shadower(copies, self.metrics, settings.hostname)
        self.traffic = Traffic(self.local, self._client, self.metrics, settings.hostname, self.shadower)
        self._split_file = SplitFile(settings.traffic_file, self.traffic.observe)
        answering = self._front.around(self.traffic)
        app = App(self.local, folder, answering, self.metrics, settings.payload_limit, settings.request_timeout)
        handler = self._front.before(app)
        self._hot_path = HotPath(
            self.local, self._queue, self.traffic, self.metrics, app.inference, settings.payload_limit,
            settings.request_timeout, lambda: app.closing,
        )  # fmt: skip
        self.rpc = _rpc(settings, app, answering, self.metrics, self._front)
        self.server = HttpServer(
            app,
            settings.app_host,
            settings.app_port,
            settings.drain_delay,
            settings.request_timeout,
            settings.payload_limit,
            self._start,
            handler,
            self._front.certificate,
            self._hot_path if handler is app else None,
            None if self.rpc is None else self.rpc.stop,
        )
        limit = container_limit() if settings.memory_limit == "auto" else settings.memory_limit
        memory = self.local.memory = MemoryWatch(limit, self._requests)
        self.metrics.memory.set_function(own_bytes)
        self.metrics.memory_limit.set(limit)
        self.metrics.memory_short.set_function(lambda: int(memory.shedding))

    def _requests(self) -> int:
        calls = 0 if self.rpc is None else self.rpc.underway
        return len(self.server.server_state.tasks) + self._hot_path.underway + calls

    def _here(self, settings: ServeSettings, name: str, folder: Path | None) -> LocalModel:
        """The model in this process."""
        assert folder is not None
        queue = self._queue = JobQueue(settings.queue_limit)
        limits = BatchLimits(
            settings.batch_size,
            settings.batch_delay,
            settings.warmup,
            settings.request_timeout,
            settings.pyfunc_batching,
            cpus(),
        )
        metrics = self.metrics
        thread = ModelThread(
            lambda: self._watched(*_load(settings, folder), settings.max_pixels),
            queue,
            limits,
            metrics.forwards("model"),
            metrics.forwards("loop"),
        )
        self._begin = thread.start
        local = self._local(settings, name, queue)
        local.trouble = thread.trouble
        metrics.queue_depth.set_function(queue.depth)
        metrics.batch_limit.set_function(lambda: thread.rows)
        return local

    def _behind(self, settings: ServeSettings, name: str, folder: Path | None) -> LocalModel:
        """The model of a server behind this one; `folder` holds its example, if anything."""
        from modelramp_server.upstream.asking import Upstream
        from modelramp_server.upstream.watch import UpstreamWatch, model_url

        url, timeout = model_url(settings.upstream, name), settings.request_timeout
        client = CandidateClient(url, settings.model_revision, answer_limit=max(ANSWER_LIMIT, settings.payload_limit))
        upstream = Upstream(url, client, settings.queue_limit, timeout, self.metrics.nonfinite_rows)
        watch = self._upstream = UpstreamWatch(upstream, settings.warmup, find_example(folder))
        self._begin = watch.start
        local = self._local(settings, name, upstream)
        local.waits = watch.waits
        self.metrics.queue_depth.set_function(upstream.depth)
        return local

    def _local(self, settings: ServeSettings, name: str, asked: Asked) -> LocalModel:
        version, revision = settings.model_version, settings.model_revision
        return LocalModel(name, version, revision, asked, self._give_up, settings.max_workers)

    async def run(self) -> None:
        """Serve until told to stop, or until the model turns out not to be servable.

        Raises:
            ModelProblem: why the model can't be served.
        """
        if self.rpc is not None:
            await self.rpc.start()
        try:
            await self.server.serve()
        finally:
            for task in self._tasks:
                task.cancel()
            await self.shadower.close()
            await self._client.close()
            if self._upstream is not None:
                await self._upstream.close()
            await self._front.close()
        if self.problem is not None:
            raise self.problem

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._split_file.watch()), loop.create_task(self.local.memory.watch())]
        self._front.start(lambda: self.server.config.ssl)
        self._begin(loop, self.local)

    def _watched(self, model: mlmodel.MLmodel, runtime: Runtime, max_pixels: int) -> tuple[mlmodel.MLmodel, Runtime]:
        images = load_images(model, runtime.inputs, max_pixels)
        self.local.speak(ROUTE, Predict(images))
        self.local.images = images.told() if images is not None else None
        return model, outputs.watched(runtime, self._not_finite)

    def _not_finite(self, rows: int) -> None:
        if self.local.model is not None:  # what the model makes of the warm-up's inputs was told to nobody
            self.metrics.nonfinite_rows(rows)

    def _ready(self, model: LoadedModel) -> None:
        gc.collect()
        gc.freeze()  # what is there now stays: looking through it again and again would only cost time
        self.metrics.model_loaded(model.runtime, model.device, bool(model.fallback))
        where = "ready at %s (for people: /docs): %s"
        if self._upstream is not None:
            log.info(where, self.server.address, self._upstream.address)
        else:
            how = where + " on %s, up to %d rows a forward"
            log.info(how, self.server.address, model.runtime, model.device, model.batch_rows)

    def _give_up(self, problem: ModelProblem) -> None:
        self.problem = problem
        self.server.should_exit = True


def _load(settings: ServeSettings, folder: Path) -> tuple[mlmodel.MLmodel, Runtime]:
    model = mlmodel.read(folder)
    return model, load(model, settings.model_runtime, settings.inference_device, settings.allow_code)


def _rpc(
    settings: ServeSettings, app: App, answering: Answering, metrics: Metrics, front: FrontDoor
) -> RpcServer | None:
    if settings.grpc_port is None:
        return None
    if front.certificate is not None:
        raise InvalidSettings("GRPC_PORT is not encrypted: it can't be set beside TLS_CERT_FILE")
    from modelramp_server.rpc.server import RpcServer
    from modelramp_server.rpc.service import InferenceService

    admit = front.guard.admit_to if front.guard is not None else None
    service = InferenceService(app, answering, metrics, settings.request_timeout, admit)
    return RpcServer(
        service,
        settings.app_host,
        settings.grpc_port,
        settings.payload_limit,
        settings.drain_delay,
        settings.request_timeout,
    )


def serve(settings: ServeSettings, folder: Path | None) -> None:
    """Run the server in this thread; `folder` as for Service.

    Raises:
        ModelProblem: why the model can't be served.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    os.environ.setdefault(_OPENMP_WAITS, "PASSIVE")
    service = Service(settings, folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(service.run())
