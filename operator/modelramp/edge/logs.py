"""Log lines that machines can filter: JSON, or text for people, both with the object that they are about."""

import json
import logging
import sys
from datetime import UTC, datetime

from modelramp.edge.settings import LogFormat

FIELDS = ("namespace", "mdep", "reason")  # what callers pass in ``extra``


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_extra(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(about)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        extra = _extra(record)
        record.about = f"{extra['namespace']}/{extra['mdep']}: " if "mdep" in extra else ""
        return super().format(record)


def configure(log_format: LogFormat) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a retry is no news; what fails is told by its caller


def _extra(record: logging.LogRecord) -> dict[str, str]:
    return {field: str(getattr(record, field)) for field in FIELDS if hasattr(record, field)}
