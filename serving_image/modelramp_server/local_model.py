"""This pod's own model as the event loop sees it: loading, ready or failed; and how it answers a request."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from modelramp_server.batching.model_thread import LoadedModel
from modelramp_server.decoders import Decoders
from modelramp_server.dialects import Decoded, Dialect, dialects
from modelramp_server.exchange import Answer, Header, InferenceRequest, compressed, error_answer, plain
from modelramp_server.memory import MemoryWatch
from modelramp_server.prediction import draw
from modelramp_server.protocol.compression import SMALLEST
from modelramp_server.protocol.errors import ModelFailed, NotReady, ServingError
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import ModelProblem

# Bytes from which parsing and writing JSON leaves the event loop.
_OFF_LOOP = 256 * 1024
_COMPRESSED_OFF_LOOP = 32 * 1024

log = logging.getLogger(__name__)


class Asked(Protocol):
    """Who answers checked inputs, or raises ServingError: the queue of the model in this process, or the server behind
    this one."""

    @property
    def limit(self) -> int:
        """Requests at most that it has at one time."""
        ...

    def admit(self, rows: int, deadline: float) -> None:
        """Refuse what could not be answered in its time."""

    async def answer(
        self,
        inputs: dict[str, Array],
        rows: int,
        deadline: float,
        budget: float,
        params: bytes,
        client: Mapping[str, Any],
    ) -> dict[str, Array]:
        """The outputs by name."""
        ...


class LocalModel:
    """Answers inference requests as this version's model; never raises, every error is an answer."""

    def __init__(
        self,
        name: str,
        version: str,
        revision: str,
        queue: Asked,
        on_failure: Callable[[ModelProblem], None],
        workers: int,
    ) -> None:
        self.name = name
        self.version = version
        self.revision = revision
        self.model: LoadedModel | None = None
        self.on_ready: Callable[[LoadedModel], None] = lambda model: None
        self.images: dict[str, object] | None = None
        self.memory = MemoryWatch(0, lambda: 0)
        self.trouble: Callable[[], str] = lambda: ""
        self.waits: Callable[[], str] = lambda: ""
        self._queue = queue
        self._dialects = dialects(name, version)
        self._on_failure = on_failure
        self._decoders = Decoders(workers, queue.limit)
        self._encoders = ThreadPoolExecutor(workers, thread_name_prefix="encoder")
        self.headers: list[Header] = [
            (b"x-modelramp-revision", revision.encode()),
            (b"x-modelramp-version", version.encode()),
        ]

    def speak(self, route: str, dialect: Dialect[Any]) -> None:
        """Answer requests of this route too."""
        self._dialects[route] = dialect

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
        except Exception as error:
            answer = failure_answer(error)
        return self.signed(request, answer)

    def signed(self, request: InferenceRequest, answer: Answer) -> Answer:
        """The answer, with who gave it and how long that took."""
        answer.service = time.monotonic() - (request.whole or request.arrived)
        answer.headers += self.headers
        answer.headers.append((b"server-timing", b"service;dur=%.3f" % (answer.service * 1000)))
        return answer

    def decodes_here(self, request: InferenceRequest) -> bool:
        """Whether reading its body takes so little that the event loop may do it."""
        return not request.encoding and self._dialects[request.route].decoding(request) < _OFF_LOOP

    def decode(self, request: InferenceRequest) -> Decoded:
        """Read and check a request, here.

        Raises:
            ServingError: what is wrong with it, or that there is no room for it.
        """
        model = self._admitted(request)
        decoded: Decoded = self._dialects[request.route].decode(plain(request), model)
        return decoded

    def encodes_here(self, request: InferenceRequest, decoded: Decoded, outputs: Mapping[str, Array]) -> bool:
        """Whether writing its answer takes so little that the event loop may do it."""
        return self._dialects[request.route].encoding(decoded, outputs) < _OFF_LOOP

    def encode(self, request: InferenceRequest, decoded: Decoded, outputs: Mapping[str, Array]) -> Answer:
        """Write an answer, here.

        Raises:
            ServingError: the outputs can't be told in the form that the client wants.
        """
        try:
            answer = self._dialects[request.route].encode(decoded, outputs)
        except (TypeError, ValueError) as error:
            raise ModelFailed(f"the model's outputs can't be written: {error}") from error
        answer.prediction = answer.prediction or draw(outputs)
        return answer

    async def encoded_beside(self, request: InferenceRequest, decoded: Decoded, outputs: Mapping[str, Array]) -> Answer:
        """The same on another thread; large answers wait for each other."""
        return await self._beside(lambda: self.encode(request, decoded, outputs))

    async def encoded(self, answer: Answer, request: InferenceRequest) -> Answer:
        """The answer in the coding that its client accepts."""
        if len(answer.body) < SMALLEST or any(
            name == b"content-encoding" or value == b"image/png" for name, value in answer.headers
        ):
            return answer
        if len(answer.body) < _COMPRESSED_OFF_LOOP:
            return compressed(answer, request.accepts)
        return await self._beside(lambda: compressed(answer, request.accepts))

    def loaded(self) -> LoadedModel:
        """The model.

        Raises:
            NotReady: it is loading.
        """
        if self.model is None:
            raise NotReady(f"the model {self.name} is loading; try again")
        return self.model

    async def _infer(self, request: InferenceRequest) -> Answer:
        if self.decodes_here(request):
            decoded = self.decode(request)
        else:
            model, dialect = self._admitted(request), self._dialects[request.route]
            decoded = await self._decoders.run(
                request, self.memory.check_now, lambda: dialect.decode(plain(request), model)
            )
        outputs = await self._queue.answer(
            decoded.inputs, decoded.rows, request.deadline, request.budget, decoded.params, request.client
        )
        if self.encodes_here(request, decoded, outputs):
            return self.encode(request, decoded, outputs)
        return await self.encoded_beside(request, decoded, outputs)

    def _admitted(self, request: InferenceRequest) -> LoadedModel:
        """Before the work of decoding."""
        model = self.loaded()
        self._queue.admit(1, request.deadline)
        return model

    async def _beside(self, call: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._encoders, call)


def failure_answer(error: Exception) -> Answer:
    """What is answered where that went wrong; a fault of the server's own is told in its log only."""
    if isinstance(error, ServingError):
        return error_answer(error)
    log.error("answering a request failed", exc_info=error)
    return error_answer(ServingError(500, "the server failed to answer; its log says why"))
