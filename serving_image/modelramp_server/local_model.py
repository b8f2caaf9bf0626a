"""This pod's own model as the event loop sees it: loading, ready or failed; and how it answers a request."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from modelramp_server.batching.model_thread import LoadedModel
from modelramp_server.decoders import Decoders
from modelramp_server.dialects import Dialect, dialects
from modelramp_server.exchange import Answer, Header, InferenceRequest, compressed, error_answer, plain
from modelramp_server.memory import MemoryWatch
from modelramp_server.prediction import draw
from modelramp_server.protocol.compression import SMALLEST
from modelramp_server.protocol.errors import ModelFailed, NotReady, ServingError
from modelramp_server.protocol.tensors import Array
from modelramp_server.runtime.base import ModelProblem

Result = TypeVar("Result")

# Bytes from which parsing and writing JSON leaves the event loop.
_OFF_LOOP = 256 * 1024
_COMPRESSED_OFF_LOOP = 32 * 1024


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
        except ServingError as error:
            answer = error_answer(error)
        answer.service = time.monotonic() - request.arrived
        answer.headers += self.headers
        answer.headers.append((b"server-timing", b"service;dur=%.3f" % (answer.service * 1000)))
        return answer

    async def encoded(self, answer: Answer, request: InferenceRequest) -> Answer:
        """The answer in the coding that its client accepts."""
        if len(answer.body) < SMALLEST or any(
            name == b"content-encoding" or value == b"image/png" for name, value in answer.headers
        ):
            return answer
        size = _OFF_LOOP if len(answer.body) >= _COMPRESSED_OFF_LOOP else 0
        return await self._encode_call(size, lambda: compressed(answer, request.accepts))

    def loaded(self) -> LoadedModel:
        """The model.

        Raises:
            NotReady: it is loading.
        """
        if self.model is None:
            raise NotReady(f"the model {self.name} is loading; try again")
        return self.model

    async def _infer(self, request: InferenceRequest) -> Answer:
        model, dialect = self.loaded(), self._dialects[request.route]
        self._queue.admit(1, request.deadline)  # before the work of decoding
        size = _OFF_LOOP if request.encoding else dialect.decoding(request)
        if size < _OFF_LOOP:
            decoded = dialect.decode(plain(request), model)
        else:
            decoded = await self._decoders.run(
                request, self.memory.check_now, lambda: dialect.decode(plain(request), model)
            )
        outputs = await self._queue.answer(
            decoded.inputs, decoded.rows, request.deadline, request.budget, decoded.params, request.client
        )
        try:
            answer = await self._encode_call(
                dialect.encoding(decoded, outputs), lambda: dialect.encode(decoded, outputs)
            )
        except (TypeError, ValueError) as error:
            raise ModelFailed(f"the model's outputs can't be written: {error}") from error
        answer.prediction = answer.prediction or draw(outputs)
        return answer

    async def _encode_call(self, size: int, call: Callable[[], Result]) -> Result:
        """Small things here; large ones, which wait for each other, on a thread."""
        if size < _OFF_LOOP:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self._encoders, call)
