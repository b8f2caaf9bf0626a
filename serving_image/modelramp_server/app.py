"""The raw-ASGI application: one dictionary from path to routes. Frameworks and middleware cost 2 to 4 times the
throughput here, so the hot path has neither."""

import re
import time
from collections.abc import Callable
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import orjson

from modelramp_server import pages
from modelramp_server.example import read_example
from modelramp_server.exchange import (
    RELAYED,
    REQUEST_ID,
    Answer,
    Disconnected,
    Receive,
    Scope,
    Send,
    error_answer,
    json_answer,
    read_request,
    refuse,
    respond,
)
from modelramp_server.local_model import LocalModel
from modelramp_server.observability.metrics import Metrics
from modelramp_server.observability.records import Answering
from modelramp_server.protocol.errors import NotReady, ServingError
from modelramp_server.protocol.refused import refusal

Route = Callable[[], Answer]
_MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(?:ready|infer|example|config))?")
_EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository(index)"]


class App:
    """Routes of the server. `draining` is set on SIGTERM: not ready, still answering. `folder`: the model's."""

    def __init__(
        self,
        local: LocalModel,
        folder: Path | None,
        traffic: Answering,
        metrics: Metrics,
        payload_limit: int,
        timeout: float,
    ) -> None:
        self.local = local
        self.draining = False
        self._folder = folder
        self._traffic = traffic
        self._metrics = metrics
        self._payload_limit = payload_limit
        self._timeout = timeout
        self.inference = self._inference_routes()
        self._pages = self._page_routes()

    @property
    def closing(self) -> bool:
        """Whether answers end the client's connection: it should go to other pods."""
        return self.draining or self._traffic.hand_over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        inference = self.inference.get(path)
        if inference is not None and scope["method"] == "POST":
            await self._infer(scope, receive, send, *inference)
            return
        try:
            answer = self.page(path, scope["method"])
        except ServingError as error:
            answer = error_answer(error)
        await respond(send, answer, self.closing)

    async def _infer(self, scope: Scope, receive: Receive, send: Send, route: str, relayable: bool) -> None:
        started = time.monotonic()
        relayed, request_id = False, b""
        for name, value in scope["headers"]:
            if name == RELAYED:
                relayed = True
            elif name == REQUEST_ID:
                request_id = value
        try:
            self._traffic.admit(count=not relayed)
            request = await read_request(scope, receive, route, self._payload_limit, self._timeout)
        except ServingError as error:
            answer = error_answer(error)
            answer.headers += self.local.headers
            answer.identify(request_id)
            self._count(route, relayed, answer, started)
            await refuse(receive, send, answer)
        except Disconnected:
            return
        else:
            answer = await self._traffic.answer(request, relayable and not relayed, count=not relayed)
            if request.accepts:
                answer = await self.local.encoded(answer, request)
            answer.identify(request_id)
            self._count(route, relayed, answer, started)
            await respond(send, answer, self.closing)

    def _count(self, route: str, relayed: bool, answer: Answer, started: float) -> None:
        if answer.rejected:
            self._metrics.rejected(answer.rejected)
        if not relayed:
            self._metrics.answered(route, answer.status, time.monotonic() - started)

    def page(self, path: str, method: str) -> Answer:
        """The answer to all but inference.

        Raises:
            ServingError: 404, 405, or what the page says.
        """
        methods = self._pages.get(path)
        if methods is None and path in self.inference:
            raise ServingError(405, f"{path} answers POST only", allow="POST")
        if methods is None:
            raise self._unknown(path)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allow = ", ".join(sorted(methods))
            raise ServingError(405, f"{path} answers {allow} only", allow=allow)
        return route()

    def _unknown(self, path: str) -> ServingError:
        refused = refusal(path)
        if refused is not None:
            return refused
        match = _MODEL_PATH.fullmatch(path)
        if match is None:
            return ServingError(404, f"no such path: {path[:200]}; see /docs")
        if match[1] != self.local.name:
            return ServingError(404, f"no model {match[1][:200]!r} here; this server has {self.local.name!r}")
        return ServingError(404, f"no version {match[2]!r} here; this server has {self.local.version!r}")

    def _model_paths(self) -> list[str]:
        base = f"/v2/models/{self.local.name}"
        return [base, f"{base}/versions/{self.local.version}"] if self.local.version else [base]

    def _inference_routes(self) -> dict[str, tuple[str, bool]]:
        paths = self._model_paths()
        routes = {f"{path}/infer": ("infer", path == paths[0]) for path in paths}
        return {**routes, "/invocations": ("invocations", True), "/predict": ("predict", True)}

    def _page_routes(self) -> dict[str, dict[str, Route]]:
        routes: dict[str, dict[str, Route]] = {
            "/v2": {"GET": self._server_metadata},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": lambda: self._ready({"ready": True})},
            "/v2/repository/index": {"POST": self._repository_index},
            "/health": {"GET": lambda: self._ready({"status": "ok"})},
            "/ping": {"GET": lambda: self._ready({"status": "ok"})},
            "/version": {"GET": lambda: Answer(200, package_version("modelramp").encode(), [_TEXT])},
            "/ready": {"GET": lambda: self._ready({"status": "ok"})},
            "/info": {"GET": lambda: pages.info(self.local, self.draining)},
            "/model/info": {"GET": lambda: pages.model_info(self.local)},
            "/openapi.json": {"GET": lambda: json_answer(200, self._openapi())},
            "/docs": {"GET": self._docs},
            "/metrics": {"GET": lambda: Answer(200, self._metrics.render(), [(b"content-type", Metrics.content_type)])},
        }
        for path in self._model_paths():
            routes[path] = {"GET": self._model_metadata}
            routes[f"{path}/config"] = {"GET": lambda: pages.model_config(self.local)}
            routes[f"{path}/example"] = {"GET": lambda: Answer(200, read_example(self._folder))}
            routes[f"{path}/ready"] = {"GET": lambda: self._ready({"name": self.local.name, "ready": True})}
        routes["/healthz"] = routes["/v2/health/live"]
        return routes

    def _live(self) -> Answer:
        trouble = self.local.trouble()
        if trouble:
            raise ServingError(503, trouble)
        return json_answer(200, {"live": True})

    def _ready(self, document: dict[str, object]) -> Answer:
        if self.draining:
            raise NotReady("the server is shutting down")
        if waits := self.local.waits():
            raise NotReady(waits)
        if self.local.model is None:
            raise NotReady(f"the model {self.local.name} is loading")
        if trouble := self.local.trouble():
            raise NotReady(trouble)
        return json_answer(200, document)

    def _server_metadata(self) -> Answer:
        return json_answer(
            200, {"name": "modelramp", "version": package_version("modelramp"), "extensions": _EXTENSIONS}
        )

    def _openapi(self) -> dict[str, Any]:
        from modelramp_server import openapi

        return openapi.document(self.local, self._pages, {path: route for path, (route, _) in self.inference.items()})

    def _docs(self) -> Answer:
        from modelramp_server import docs_page

        return Answer(200, docs_page.render(self._openapi()), [_HTML])

    def _model_metadata(self) -> Answer:
        model = self.local.loaded()
        document = {
            "name": self.local.name,
            "versions": [self.local.version] if self.local.version else [],
            "platform": model.runtime,
            "inputs": [spec.as_metadata() for spec in model.inputs],
            "outputs": [spec.as_metadata() for spec in model.outputs],
        }
        return Answer(200, orjson.dumps(document))

    def _repository_index(self) -> Answer:
        reason = self.local.waits() or ("loading" if self.local.model is None else "")
        state = "UNAVAILABLE" if reason else "READY"
        return json_answer(
            200, [{"name": self.local.name, "version": self.local.version, "state": state, "reason": reason}]
        )


_HTML = (b"content-type", b"text/html; charset=utf-8")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
