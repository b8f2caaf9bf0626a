"""OpenTelemetry spans, one for each request, by OTLP over HTTP. Where to, and which share, say OpenTelemetry's own
variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME).

The W3C context of a client goes through the relay with or without this: its headers are passed on. With it, the
candidate's span becomes the child of stable's.
"""

import os
import threading
from collections.abc import MutableMapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from modelramp_server.exchange import Handler, Receive, Scope, Send
from modelramp_server.observability.context import TRACE_ID

LAST_WORDS = 3.0  # seconds for spans that wait to be sent when the server ends
_UNKNOWN_PATHS = (401, 404, 405)  # a name for each would be as many as somebody likes
_CONTEXT = (b"traceparent", b"tracestate")
_TOLD = {
    b"x-modelramp-version": "modelramp.model.version",
    b"x-modelramp-revision": "modelramp.revision",
    b"x-modelramp-net": "modelramp.net",
    b"server-timing": "modelramp.server_timing",
    b"x-request-id": "http.request.header.x-request-id",
}


class Tracing:
    """Spans of one server. `attributes` are told of the whole process."""

    def __init__(self, attributes: dict[str, str], exporter: SpanExporter | None = None) -> None:
        """`exporter`: where spans go, if not to OTLP."""
        name = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "modelramp-server"}
        self._provider = TracerProvider(resource=Resource.create({**name, **attributes}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("modelramp_server")
        self._context = TraceContextTextMapPropagator()

    def around(self, app: Handler, quiet: frozenset[str]) -> Handler:
        """The app, with a span around each request but those to the paths in `quiet`."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] in quiet:
                return await app(scope, receive, send)
            given = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _CONTEXT}
            method = scope["method"]
            span = self._tracer.start_span(
                method,
                self._context.extract(given),
                SpanKind.SERVER,
                {"http.request.method": method, "url.path": scope["path"]},
            )

            async def noting(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    _note(span, f"{method} {scope['path']}", message)
                await send(message)

            with use_span(span, end_on_exit=True):
                TRACE_ID.set(format_trace_id(span.get_span_context().trace_id))
                self._pass_on(scope)
                await app(scope, receive, noting)

        return traced

    def stop(self) -> None:
        """Send what waits, or give up after three seconds: a collector that is down must not hold the exit up."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(LAST_WORDS)

    def _pass_on(self, scope: Scope) -> None:
        carrier: dict[str, str] = {}
        self._context.inject(carrier)
        others = [each for each in scope["headers"] if each[0] not in _CONTEXT]
        scope["headers"] = [*others, *((name.encode(), value.encode("latin-1")) for name, value in carrier.items())]


def _note(span: Span, name: str, message: MutableMapping[str, Any]) -> None:
    status = message["status"]
    span.set_attribute("http.response.status_code", status)
    if status not in _UNKNOWN_PATHS:
        span.update_name(name)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
    for header, value in message["headers"]:
        if header in _TOLD:
            span.set_attribute(_TOLD[header], value.decode("latin-1"))
