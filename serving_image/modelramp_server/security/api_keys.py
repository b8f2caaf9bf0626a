"""API keys at rest: a file of `<name>:sha256:<64 hex digits>` lines. What a client shows is hashed and looked for.

A key is 32 random bytes. Nobody tries out 2^256 of them, so one SHA-256 guards a stolen file as well as a slow hash
would (bcrypt, Argon2), and costs each request a microsecond instead of a tenth of a second. For words that people
choose it would be far too fast: shorter keys are refused where entries are made.
"""

import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest, digest

SHORTEST = 32
_ENTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]{0,63}):sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class BadKeys(ValueError):
    """A line that is no entry, or a key that is too weak; the message says which and what would do."""


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Digests and whose they are. A name may have several: the old key and the new one while clients change over."""

    entries: tuple[tuple[bytes, str], ...] = ()
    peer_mark: bytes = b""
    """What pods with the same file know of each other, and no client does; empty without entries."""

    def owner(self, key: bytes) -> str | None:
        """The name that the key belongs to. Takes as long for any key, known or not."""
        shown = sha256(key).digest()
        found = None
        for known, name in self.entries:
            if compare_digest(known, shown):
                found = name
        return found


def parse(text: str) -> ApiKeys:
    """The entries of a file; empty lines and lines that begin with # are left out.

    Raises:
        BadKeys: with the number of the line, and never what stands there.
    """
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ENTRY.fullmatch(line.strip())
        if match is None:
            raise BadKeys(f"line {number} is no entry; make one with modelramp-server hash-key NAME")
        entries.append((bytes.fromhex(match[2]), match[1]))
    return ApiKeys(tuple(entries), _peer_mark([known for known, _ in entries]))


def _peer_mark(digests: list[bytes]) -> bytes:
    return digest(b"".join(sorted(digests)), b"modelramp relayed", "sha256").hex().encode() if digests else b""


def new_key() -> str:
    """32 random bytes, as text that fits into a header."""
    return secrets.token_urlsafe(32)


def entry(name: str, key: str) -> str:
    """The line that admits the key.

    Raises:
        BadKeys: the name has other characters, or the key is too short to be random.
    """
    if _NAME.fullmatch(name) is None:
        raise BadKeys(f"{name!r} is no name for a key; use letters, digits and ._@-, 64 at most")
    if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
        raise BadKeys(
            f"a key has {SHORTEST} random characters of ASCII or more, without spaces; leave it out to get one"
        )
    return f"{name}:sha256:{sha256(key.encode()).hexdigest()}"
