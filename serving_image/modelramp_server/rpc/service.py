"""The calls of inference.GRPCInferenceService. Pages are those of REST; ModelInfer goes the way of `/infer`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from modelramp_server.app import App
from modelramp_server.batching.jobs import LEFT
from modelramp_server.exchange import RELAYED, Answer, Header, InferenceRequest, error_answer
from modelramp_server.observability.metrics import Metrics
from modelramp_server.observability.records import Answering
from modelramp_server.protocol.errors import BadRequest, OutOfTime, ServingError
from modelramp_server.rpc import inference_pb2 as pb
from modelramp_server.rpc.codec import ModelInfer, Rpc
from modelramp_server.rpc.status import CLIENT_GONE, code_of, details_of, metadata_of

_INDEX = "/v2/repository/index"
SERVICE = "inference.GRPCInferenceService"
ROUTE = "grpc"

# The answer leaves before the client's deadline, or the client would never know why, and nobody would count it.
_HEAD_START = 0.01
_LARGEST_PART = 0.1
_NOT_PASSED_ON = ("user-agent", "content-type", "content-encoding", "accept", "accept-encoding", "x-request-timeout")
_REFUSALS = {
    "ModelStreamInfer": "streaming is not served; call ModelInfer",
    "ModelConfig": "there is no Triton model configuration here; see ModelMetadata",
    "RepositoryModelLoad": "one server serves one model; it is not loaded at run time",
    "RepositoryModelUnload": "one server serves one model; it is not unloaded at run time",
    "SystemSharedMemory": "shared memory is not served; send the data",
    "CudaSharedMemory": "shared memory is not served; send the data",
}

Context = Any  # grpc.aio.ServicerContext
Handler = Callable[[bytes, Context], Awaitable[bytes]]
Admit = Callable[[str, list[Header]], Awaitable[None]]  # the path of the same thing in REST, and the headers
Message = TypeVar("Message")


class InferenceService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call. Messages are parsed here: the library answers UNKNOWN where that fails."""

    def __init__(
        self, app: App, traffic: Answering, metrics: Metrics, timeout: float, admit: Admit | None = None
    ) -> None:
        """`admit` raises ServingError for callers that may not; None: everybody may."""
        self._app = app
        self._local = app.local
        self._traffic = traffic
        self._metrics = metrics
        self._timeout = timeout
        self._admit = admit
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._local.speak(ROUTE, Rpc(self._local.name, self._local.version))
        model = f"/v2/models/{self._local.name}"
        self._infer_path = f"{model}/infer"
        handlers: dict[str, Handler] = {
            "ServerLive": self._call("/v2/health/live", pb.ServerLiveRequest, self._server_live),
            "ServerReady": self._call("/v2/health/ready", pb.ServerReadyRequest, self._server_ready),
            "ServerMetadata": self._call("/v2", pb.ServerMetadataRequest, self._server_metadata),
            "ModelReady": self._call(f"{model}/ready", pb.ModelReadyRequest, self._model_ready),
            "ModelMetadata": self._call(model, pb.ModelMetadataRequest, self._model_metadata),
            "RepositoryIndex": self._call(_INDEX, pb.RepositoryIndexRequest, self._repository_index),
            "ModelInfer": self._infer,
        }
        self._handlers = {
            f"/{SERVICE}/{name}": grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()
        }

    def service(self, details: Any) -> Any:
        """Called by the library for each call."""
        handler = self._handlers.get(details.method)
        if handler is None and details.method.startswith(f"/{SERVICE}/"):
            return _refusal(details.method.rpartition("/")[2])
        return handler

    @property
    def underway(self) -> int:
        """Inference requests that are not answered yet; those of cancelled calls too."""
        return len(self._tasks)

    async def finish(self, seconds: float) -> None:
        """Wait for them, so long at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def is_ready(self) -> bool:
        """Whether the readiness probe would say so."""
        return self._is_well("/v2/health/ready")

    def _is_well(self, probe: str) -> bool:
        try:
            return self._app.page(probe, "GET").status == 200
        except ServingError:
            return False

    def _call(self, path: str, kind: Any, call: Callable[[Any], Any]) -> Handler:
        async def handle(raw: bytes, context: Context) -> bytes:
            try:
                if self._admit is not None:
                    await self._admit(path, _headers(context))
                answer: bytes = call(_parse(kind, raw)).SerializeToString()
            except ServingError as error:
                return _reply(context, error_answer(error))
            return answer

        return handle

    async def _infer(self, raw: bytes, context: Context) -> bytes:
        arrived = time.monotonic()
        headers = _headers(context)
        if self._admit is not None:
            try:
                await self._admit(self._infer_path, headers)
            except ServingError as error:
                return _reply(context, error_answer(error))
        relayed = any(name == RELAYED for name, _ in headers)
        client: dict[str, Any] = {}
        work = self._answer(raw, headers, arrived, context.time_remaining(), relayed, client)
        status = CLIENT_GONE
        try:
            answer = await asyncio.shield(self._held(work))
            status = answer.status
        except asyncio.CancelledError:
            client[LEFT] = True
            raise
        finally:
            if not relayed:
                self._metrics.answered(ROUTE, status, time.monotonic() - arrived)
        return _reply(context, answer)

    def _held(self, work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        """A task that outlives its call: what was handed to a candidate goes on, and is counted."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(
        self,
        raw: bytes,
        headers: list[Header],
        arrived: float,
        remaining: float | None,
        relayed: bool,
        client: dict[str, Any],
    ) -> Answer:
        try:
            self._traffic.admit(count=not relayed)
            message = _parse(pb.ModelInferRequest, raw)
            self._check(message.model_name, message.model_version)
            request = InferenceRequest(ROUTE, self._infer_path, headers, raw, None, arrived, self._budget(remaining))
            request.translation, request.client = ModelInfer(message), client
        except ServingError as error:
            answer = error_answer(error)
            answer.headers += self._local.headers
        else:
            relayable = not message.model_version and not relayed
            answer = await self._traffic.answer(request, relayable, count=not relayed)
        if answer.rejected:
            self._metrics.rejected(answer.rejected)
        return answer

    def _budget(self, remaining: float | None) -> float:
        if remaining is None:
            return self._timeout
        budget = remaining - min(_HEAD_START, remaining * _LARGEST_PART)
        if budget <= 0:
            raise OutOfTime(remaining)
        return min(self._timeout, budget)

    def _check(self, name: str, version: str) -> None:
        if name != self._local.name:
            raise ServingError(404, f"model_name: no model {name[:200]!r} here; this server has {self._local.name!r}")
        if version not in ("", self._local.version):
            raise ServingError(
                404, f"model_version: no version {version[:200]!r} here; this server has {self._local.version!r}"
            )

    def _server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._is_well("/v2/health/live"))

    def _server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.is_ready())

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        self._check(request.name, request.version)
        return pb.ModelReadyResponse(ready=self.is_ready())

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return self._page("/v2", "GET", pb.ServerMetadataResponse())

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        self._check(request.name, request.version)
        return self._page(f"/v2/models/{self._local.name}", "GET", pb.ModelMetadataResponse())

    def _repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        found = orjson.loads(self._app.page(_INDEX, "POST").body)
        models = [model for model in found if model["state"] == "READY" or not request.ready]
        return _filled(pb.RepositoryIndexResponse(), {"models": models})

    def _page(self, path: str, method: str, message: Message) -> Message:
        return _filled(message, orjson.loads(self._app.page(path, method).body))


def _headers(context: Context) -> list[Header]:
    return [
        (name.encode(), value.encode())
        for name, value in context.invocation_metadata()
        if isinstance(value, str) and name not in _NOT_PASSED_ON and not name.startswith("grpc-")
    ]


def _parse(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.full_name}") from None


def _filled(message: Message, document: dict[str, Any]) -> Message:
    ParseDict(document, message, ignore_unknown_fields=True)
    return message


def _reply(context: Context, answer: Answer) -> bytes:
    context.set_trailing_metadata(metadata_of(answer.headers))
    if answer.status < 300:
        return answer.body
    context.set_code(code_of(answer.status))
    context.set_details(details_of(answer))
    return b""


def _refusal(method: str) -> Any:
    sentence = next((text for name, text in _REFUSALS.items() if method.startswith(name)), "it is not served here")

    async def refuse(_: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method}: {sentence}")

    return grpc.stream_stream_rpc_method_handler(refuse)
