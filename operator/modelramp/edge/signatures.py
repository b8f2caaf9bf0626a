"""Who sent a request, and when: HMAC-SHA256 by a shared key, over a timestamp too, and each taken once.

Two formats: MLflow's webhooks (after https://www.standardwebhooks.com), and Modelramp's own notifications
(docs/operations.md), which approvals use as well.
"""

import base64
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelramp.ports import Clock

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 300
MOST_SEEN = 10_000


class Refused(Exception):
    """``str(error)`` is the answer's text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Signed:
    """What was signed, how and when, and the name that it is known again by."""

    signature: str
    timestamp: str
    delivery: str
    content: bytes
    written: Callable[[bytes], str]  # how a digest is written

    @classmethod
    def by_mlflow(cls, headers: Mapping[str, str], body: bytes) -> "Signed":
        """Raises Refused."""
        signature, timestamp = _header(headers, "X-MLflow-Signature"), _header(headers, "X-MLflow-Timestamp")
        delivery = _header(headers, "X-MLflow-Delivery-Id")
        content = f"{delivery}.{timestamp}.".encode() + body
        return cls(signature, timestamp, delivery, content, lambda digest: f"v1,{base64.b64encode(digest).decode()}")

    @classmethod
    def by_modelramp(cls, headers: Mapping[str, str], body: bytes) -> "Signed":
        """Raises Refused."""
        signature, timestamp = _header(headers, "X-Modelramp-Signature"), _header(headers, "X-Modelramp-Timestamp")
        content = f"{timestamp}.".encode() + body
        return cls(signature, timestamp, signature, content, lambda digest: f"sha256={digest.hex()}")

    def matches(self, secret: bytes) -> bool:
        digest = hmac.new(secret, self.content, hashlib.sha256).digest()
        return hmac.compare_digest(self.signature.encode(), self.written(digest).encode())


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise Refused(401, f"the header {name} is missing: sign the request (docs/operations.md)")
    return value


def _secret(file: Path) -> bytes:
    """The key, read anew each time: it may be replaced at any time."""
    try:
        secret, trouble = file.read_bytes().strip(), "it is empty"
    except OSError as error:
        secret, trouble = b"", error.strerror or str(error)
    if not secret:
        logger.error("a signed request is not taken: the key in %s cannot be read: %s", file, trouble)
        raise Refused(503, "the operator cannot read its key; its log has more")
    return secret


class Window:
    """Deliveries taken of late. One that was is not taken again; one outside the window never is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}  # until when, oldest first

    def verify(self, signed: Signed, secret_file: Path) -> None:
        """Raises Refused."""
        secret = _secret(secret_file)
        if not signed.matches(secret):
            raise Refused(401, "the signature is not by the key that the operator has")
        try:
            age = self._clock.now().timestamp() - int(signed.timestamp)
        except ValueError as error:
            raise Refused(400, "the timestamp is not in whole seconds since 1970") from error
        if abs(age) > WINDOW_SECONDS:
            raise Refused(401, f"the timestamp is {abs(age):.0f} s off; {WINDOW_SECONDS} s at most: see both clocks")

    def first(self, delivery: str) -> bool:
        """Whether this has not been taken before. Called for verified ones only."""
        now = self._clock.now().timestamp()
        self._seen = {it: until for it, until in self._seen.items() if until > now}
        if delivery in self._seen:
            return False
        while len(self._seen) >= MOST_SEEN:
            del self._seen[next(iter(self._seen))]
        self._seen[delivery] = now + 2 * WINDOW_SECONDS
        return True

    def forget(self, delivery: str) -> None:
        """It was not taken after all, and may be sent again."""
        self._seen.pop(delivery, None)
