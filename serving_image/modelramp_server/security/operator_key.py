"""The operator's own key to this pod, by which it tries a new version before anybody else asks it (docs/contract.md).

Nobody hands it one: it makes a key for the pod, keeps that in memory, and writes the digest on the pod as an
annotation, which a volume shows as a file (ADR 29).
"""

import logging
import re
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

OPERATOR = "modelramp:operator"  # a name that no entry of API_KEYS_FILE can have
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

log = logging.getLogger(__name__)


class OperatorKey:
    """A file of `sha256:<64 hex digits>`, once it is read. Without one, or with anything else, it admits nobody."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = b""

    def admits(self, key: bytes) -> bool:
        """Whether it is the operator's key."""
        return bool(self._digest) and compare_digest(self._digest, sha256(key).digest())

    def reload(self) -> None:
        """Read it, or read it again."""
        try:
            text = self.path.read_text(errors="replace").strip()
        except OSError:
            text = ""
        found = _DIGEST.fullmatch(text)
        if text and found is None:
            log.error("OPERATOR_KEY_FILE (%s) is not sha256:<64 hex digits>: the operator is not let in", self.path)
        self._digest = bytes.fromhex(found[1]) if found else b""
