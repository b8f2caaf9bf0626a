"""What stands in front of the app and around its answers, as the settings ask. Chosen once, at the start: where nothing
is asked for, the app itself is what the HTTP server calls, and no request pays for what is not there."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelramp_server.exchange import Handler
from modelramp_server.observability.metrics import Metrics
from modelramp_server.observability.records import Answering, Audit, Record, Recorded, Samples
from modelramp_server.settings import InvalidSettings, ServeSettings

if TYPE_CHECKING:
    from modelramp_server.observability.line_log import LineLog
    from modelramp_server.observability.tracing import Tracing
    from modelramp_server.security.guard import Guard
    from modelramp_server.security.key_file import KeyFile
    from modelramp_server.security.tls import Certificate
    from modelramp_server.security.tokens import Tokens

HEALTH = frozenset(("/v2/health/live", "/v2/health/ready", "/health", "/healthz", "/ready", "/ping"))
AUDIT_WAITING, SAMPLES_WAITING = 10_000, 256  # lines that may wait for the disk

Watch = Callable[[], Coroutine[Any, Any, None]]


class FrontDoor:
    """Guard, records, access log, traces and TLS of one server."""

    def __init__(self, settings: ServeSettings, model: str, metrics: Metrics) -> None:
        """Raises InvalidSettings. `guard` lets requests of other protocols than HTTP pass, or not; None lets all."""
        self._settings = settings
        self._model = model
        self._metrics = metrics
        self._watches: list[Watch] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._logs: list[LineLog] = []
        self._keys = self._key_file()
        self.guard = self._build_guard()
        self._records = self._build_records()
        self._tracing = self._build_tracing()
        self.certificate = self._build_certificate()

    def before(self, app: Handler) -> Handler:
        """What the HTTP server is to call."""
        settings, quiet = self._settings, HEALTH | {"/metrics"}
        inner = app
        if self.guard is not None:
            inner = self.guard.before(inner)
        if settings.access_log:
            from modelramp_server.observability.requests import with_access_log

            inner = with_access_log(inner, quiet)
        if settings.access_log or settings.log_format == "json" or self._records or self._tracing:
            from modelramp_server.observability.requests import with_ids

            inner = with_ids(inner)
        return self._tracing.around(inner, quiet) if self._tracing else inner

    def around(self, answering: Answering) -> Answering:
        """What is to answer inference requests."""
        return Recorded(answering, self._records) if self._records else answering

    def marks(self) -> dict[str, str]:
        """Headers by which a candidate knows a relayed request for one that this pod has let in."""
        mark = self._keys.keys.peer_mark if self._keys else b""
        return {"x-modelramp-peer": mark.decode()} if mark else {}

    def start(self, tls: Callable[[], Any]) -> None:
        """Begin to watch files and issuers; `tls` says the context that the HTTP server uses."""
        if self.certificate is not None:
            chain, key = self.certificate.chain, self.certificate.key
            self._watch_files((chain, key), self.certificate.reloader(tls))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(watch()) for watch in self._watches]

    async def close(self) -> None:
        """Write and send what waits."""
        for task in self._tasks:
            task.cancel()
        for log in self._logs:
            await asyncio.to_thread(log.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)

    def _key_file(self) -> "KeyFile | None":
        if self._settings.api_keys_file is None:
            return None
        from modelramp_server.security.key_file import KeyFile

        keys = KeyFile(self._settings.api_keys_file)
        self._watch_files((keys.path,), keys.reload)
        return keys

    def _build_guard(self) -> "Guard | None":
        settings, keys = self._settings, self._keys
        tokens = self._build_tokens()
        if keys is None and tokens is None:
            if settings.rate_limit:
                raise InvalidSettings("RATE_LIMIT is a rate for each caller: it needs API_KEYS_FILE or JWT_JWKS")
            if "auth_open" in settings.model_fields_set:
                raise InvalidSettings("AUTH_OPEN: nothing needs credentials without API_KEYS_FILE or JWT_JWKS")
            return None
        from modelramp_server.rate_limit import RateLimit
        from modelramp_server.security.api_keys import ApiKeys
        from modelramp_server.security.guard import Guard
        from modelramp_server.security.operator_key import OperatorKey

        burst = settings.rate_burst or max(1.0, settings.rate_limit)
        limit = RateLimit(settings.rate_limit, burst) if settings.rate_limit else None
        none = ApiKeys()
        held = (lambda: keys.keys) if keys is not None else lambda: none
        operator = OperatorKey(settings.operator_key_file)
        self._watch_files((operator.path,), operator.reload)
        operator.reload()  # watched already: what is written meanwhile is not missed
        return Guard(held, operator, tokens, limit, self._open_paths(), self._metrics.rejected)

    def _open_paths(self) -> frozenset[str]:
        model = f"/v2/models/{self._model}"
        versions = [model, f"{model}/versions/{self._settings.model_version}"]
        opened = {"metrics": {"/metrics"}, "metadata": {"/v2", *versions}}
        asked = {name.strip() for name in self._settings.auth_open.split(",") if name.strip()}
        if asked - opened.keys():
            raise InvalidSettings(f"AUTH_OPEN: {sorted(asked - opened.keys())} are none of {', '.join(opened)}")
        return HEALTH.union((f"{path}/ready" for path in versions), *(opened[name] for name in asked))

    def _build_tokens(self) -> "Tokens | None":
        settings = self._settings
        if not settings.jwt_jwks:
            if settings.jwt_audience or settings.jwt_issuer:
                raise InvalidSettings("JWT_AUDIENCE and JWT_ISSUER say which tokens are let in: they need JWT_JWKS")
            return None
        try:
            from modelramp_server.security.jwks import JwksFile, JwksUrl
            from modelramp_server.security.tokens import Tokens
        except ModuleNotFoundError as error:
            raise InvalidSettings(f"JWT_JWKS needs {error.name}: pip install 'modelramp[auth]'") from None
        algorithms = [name.strip() for name in settings.jwt_algorithms.split(",") if name.strip()]
        if settings.jwt_jwks.startswith(("http://", "https://")):
            fetched = JwksUrl(settings.jwt_jwks)
            self._watches.append(fetched.watch)
            return Tokens(fetched, settings.jwt_audience, settings.jwt_issuer, algorithms)
        file = JwksFile(Path(settings.jwt_jwks))
        self._watch_files((file.path,), file.reload)
        return Tokens(file, settings.jwt_audience, settings.jwt_issuer, algorithms)

    def _build_records(self) -> list[Record]:
        settings = self._settings
        records: list[Record] = []
        if settings.audit_log:
            records.append(Audit(self._line_log("audit", settings.audit_log, AUDIT_WAITING), self._model))
        if settings.payload_log:
            log = self._line_log("payload", settings.payload_log, SAMPLES_WAITING)
            records.append(Samples(log, self._model, settings.payload_share))
        return records

    def _line_log(self, name: str, target: str, waiting: int) -> "LineLog":
        from modelramp_server.observability.line_log import LineLog

        try:
            log = LineLog(target, waiting, self._metrics.record_lost(name))
        except OSError as error:
            raise InvalidSettings(f"{name.upper()}_LOG is {target!r}: {error}") from None
        self._logs.append(log)
        return log

    def _build_tracing(self) -> "Tracing | None":
        if not self._settings.tracing:
            return None
        try:
            from modelramp_server.observability.tracing import Tracing
        except ModuleNotFoundError as error:
            raise InvalidSettings(f"TRACING needs {error.name}: pip install 'modelramp[otel]'") from None
        settings = self._settings
        named = {"modelramp.model.name": self._model, "modelramp.pod.revision": settings.model_revision}
        return Tracing({**named, "service.instance.id": settings.hostname})

    def _build_certificate(self) -> "Certificate | None":
        chain, key = self._settings.tls_cert_file, self._settings.tls_key_file
        if chain is None and key is None:
            return None
        if chain is None or key is None:
            raise InvalidSettings("TLS_CERT_FILE and TLS_KEY_FILE belong together: set both or neither")
        from modelramp_server.security.tls import Certificate

        return Certificate(chain, key)

    def _watch_files(self, paths: tuple[Path, ...], changed: Callable[[], None]) -> None:
        from modelramp_server.security.files import ChangingFiles

        self._watches.append(ChangingFiles(paths, changed).watch)
