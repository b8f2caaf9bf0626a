"""This pod's own model as the event loop sees it: loading, ready or failed; and how it answers a request."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modelramp_server.batching.jobs import JobQueue
from modelramp_server.batching.model_thread import LoadedModel
from modelramp_server.dialects import dialects
from modelramp_server.exchange import Answer, Header, InferenceRequest, error_answer
from modelramp_server.memory import MemoryWatch
from modelramp_server.prediction import draw
from modelramp_server.protocol.errors import NotReady, ServingError
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import ModelProblem

Result = TypeVar("Result")

# Bytes from which parsing and writing JSON leaves the event loop.
_OFF_LOOP = 256 * 1024


class LocalModel:
    """Answers inference requests with the model in this process; never raises, every error is an answer."""

    def __init__(
        self, name: str, version: str, revision: str, queue: JobQueue, on_failure: Callable[[ModelProblem], None]
    ) -> None:
        self.name = name
        self.version = version
        self.revision = revision
        self.model: LoadedModel | None = None
        self.on_ready: Callable[[LoadedModel], None] = lambda model: None
        self.memory = MemoryWatch(0, lambda: 0)
        self.trouble: Callable[[], str] = lambda: ""
        self._queue = queue
        self._dialects = dialects(name, version)
        self._on_failure = on_failure
        self._codec = ThreadPoolExecutor(1, thread_name_prefix="codec")
        self.headers: list[Header] = [
            (b"x-modelramp-revision", revision.encode()),
            (b"x-modelramp-version", version.encode()),
        ]

    def ready(self, model: LoadedModel) -> None:
        """The model thread has loaded and warmed the model up."""
        self.model = model
        self.on_ready(model)

    def failed(self, problem: ModelProblem) -> None:
        """The model thread gave up."""
        self._on_failure(problem)

    async def answer(self, request: InferenceRequest) -> Answer:
        """Decode, queue, encode."""
        try:
            answer = await self._infer(request)
        except ServingError as error:
            answer = error_answer(error)
        answer.service = time.monotonic() - request.arrived
        answer.headers += self.headers
        answer.headers.append((b"server-timing", b"service;dur=%.3f" % (answer.service * 1000)))
        return answer

    async def _infer(self, request: InferenceRequest) -> Answer:
        if self.model is None:
            raise NotReady(f"the model {self.name} is loading; try again")
        self._queue.admit(1, request.deadline)  # before the work of decoding
        model, dialect = self.model, self._dialects[request.route]
        decoded = await self._codec_call(
            len(request.body), lambda: dialect.decode(request, model), before=self.memory.check_now
        )
        outputs = await self._queue.answer(
            decoded.inputs, decoded.rows, request.deadline, request.budget, decoded.params, request.client
        )
        answer = await self._codec_call(_size(outputs), lambda: dialect.encode(decoded, outputs))
        answer.prediction = draw(outputs)
        return answer

    async def _codec_call(
        self, size: int, call: Callable[[], Result], before: Callable[[], None] = lambda: None
    ) -> Result:
        """Small things here; large ones, which wait for each other, on a thread: when their turn has come, `before` may
        still refuse them."""
        if size < _OFF_LOOP:
            return call()

        def later() -> Result:
            before()
            return call()

        return await asyncio.get_running_loop().run_in_executor(self._codec, later)


def _size(outputs: dict[str, Array]) -> int:
    return sum(array.nbytes for array in outputs.values())
