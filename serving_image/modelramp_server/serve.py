"""Wiring of `modelramp-server serve`: settings in, a serving process out."""

import asyncio
import logging
import sys
from pathlib import Path

import uvloop

from modelramp_server.app import App
from modelramp_server.batching.jobs import JobQueue
from modelramp_server.batching.model_thread import BatchLimits, LoadedModel, ModelThread
from modelramp_server.http_server import HttpServer
from modelramp_server.local_model import LocalModel
from modelramp_server.observability.metrics import Metrics
from modelramp_server.relay.client import CandidateClient
from modelramp_server.relay.shadow import BODY_LIMIT, Shadower
from modelramp_server.relay.split_file import SplitFile
from modelramp_server.relay.traffic import Traffic
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import ModelProblem, Runtime
from modelramp_server.runtime.choice import load
from modelramp_server.settings import ServeSettings

# The default of 5 ms lets a Python-heavy model hold the event loop up for 10 ms at p99.
_SWITCH_INTERVAL = 0.0005

log = logging.getLogger(__name__)


class Service:
    """One serving process: the parts, wired."""

    def __init__(self, settings: ServeSettings, folder: Path) -> None:
        self.problem: ModelProblem | None = None
        self._tasks: list[asyncio.Task[None]] = []
        name = settings.model_name or folder.name
        self.metrics = Metrics(name, settings.model_version, settings.model_revision)
        queue = JobQueue(settings.queue_limit)
        self.metrics.queue_depth.set_function(queue.depth)
        self.local = LocalModel(name, settings.model_version, settings.model_revision, queue, self._give_up)
        self.local.on_ready = self._ready
        self._client = CandidateClient(settings.candidate_url, settings.model_revision)
        copies = CandidateClient(settings.candidate_url, settings.model_revision, answer_limit=BODY_LIMIT)
        self.shadower = Shadower(copies, self.metrics, settings.hostname)
        self.traffic = Traffic(self.local, self._client, self.metrics, settings.hostname, self.shadower)
        self._split_file = SplitFile(settings.traffic_file, self.traffic.observe)
        self._thread = ModelThread(
            lambda: _load(settings, folder),
            queue,
            BatchLimits(
                settings.batch_size,
                settings.batch_delay,
                settings.warmup,
                settings.request_timeout,
                settings.pyfunc_batching,
            ),
            self.metrics.batch_rows,
        )
        self.metrics.batch_limit.set_function(lambda: self._thread.rows)
        self.local.trouble = self._thread.trouble
        app = App(self.local, folder, self.traffic, self.metrics, settings.payload_limit, settings.request_timeout)
        self.server = HttpServer(
            app,
            settings.app_host,
            settings.app_port,
            settings.drain_delay,
            settings.request_timeout,
            self._start,
        )

    async def run(self) -> None:
        """Serve until told to stop, or until the model turns out not to be servable.

        Raises:
            ModelProblem: why the model can't be served.
        """
        try:
            await self.server.serve()
        finally:
            for task in self._tasks:
                task.cancel()
            await self.shadower.close()
            await self._client.close()
        if self.problem is not None:
            raise self.problem

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._split_file.watch())]
        self._thread.start(loop, self.local)

    def _ready(self, model: LoadedModel) -> None:
        self.metrics.model_loaded(model.runtime, model.device, bool(model.fallback))
        log.info("ready: %s on %s, up to %d rows a forward", model.runtime, model.device, model.batch_rows)

    def _give_up(self, problem: ModelProblem) -> None:
        self.problem = problem
        self.server.should_exit = True


def _load(settings: ServeSettings, folder: Path) -> tuple[mlmodel.MLmodel, Runtime]:
    model = mlmodel.read(folder)
    return model, load(model, settings.model_runtime, settings.inference_device, settings.allow_code)


def serve(settings: ServeSettings, folder: Path) -> None:
    """Run the server in this thread.

    Raises:
        ModelProblem: why the model can't be served.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    service = Service(settings, folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(service.run())
