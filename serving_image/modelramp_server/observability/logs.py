"""Log lines on stderr, as text for people or as JSON for collectors; both name the request that a line belongs to."""

import logging
from datetime import UTC, datetime
from typing import Literal

import orjson

from modelramp_server.observability.context import REQUEST_ID, TRACE_ID

LogFormat = Literal["text", "json"]


class TextFormatter(logging.Formatter):
    """Time, level, where, what, and the request's id where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Called by format."""
        text = super().formatMessage(record)
        request_id = REQUEST_ID.get()
        return f"{text} request_id={request_id}" if request_id else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line. `extra={"fields": {...}}` of a log call stands beside what every line has."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by handlers."""
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        ids = {"request_id": REQUEST_ID.get(), "trace_id": TRACE_ID.get()}
        document.update({name: value for name, value in ids.items() if value})
        document.update(getattr(record, "fields", {}))
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(document, default=str).decode()


def configure(level: str, log_format: LogFormat = "text") -> None:
    """Set up logging for the process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
