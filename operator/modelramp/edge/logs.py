"""Log lines that machines can filter: JSON, or text for people, both with the object that they are about."""

import json
import logging
import sys
from datetime import UTC, datetime

from modelramp.api.status import Status
from modelramp.domain.changes import subject
from modelramp.domain.snapshot import Decision
from modelramp.edge.settings import LogFormat
from modelramp.ports import Key

FIELDS = ("namespace", "mdep", "revision", "phase", "reason")  # what callers pass in ``extra``

logger = logging.getLogger(__name__)


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


class DecisionLog:
    """Logs every decision once: its events, or if it has none, where the object now stands (the Observer port)."""

    def decided(self, key: Key, before: Status, decision: Decision) -> None:
        after = decision.status
        told = [(event.reason, event.message) for event in decision.events]
        if not told and (before.phase, before.reason) != (after.phase, after.reason):
            told = [(after.reason, after.message)]
        named = {"namespace": key.namespace, "mdep": key.name, "revision": subject(before, after)}
        for reason, message in told:
            extra = {**named, "phase": after.phase.value, "reason": reason}
            logger.info("%s: %s", reason, message, extra=extra)

    def gone(self, key: Key) -> None:
        pass


def configure(log_format: LogFormat) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a retry is no news; what fails is told by its caller


def _extra(record: logging.LogRecord) -> dict[str, str]:
    return {field: str(getattr(record, field)) for field in FIELDS if hasattr(record, field)}
