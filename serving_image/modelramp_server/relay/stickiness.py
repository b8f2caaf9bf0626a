"""Which side a request with a key belongs to: the same for a whole attempt, on every replica, at growing weights.

The key is hashed with the attempt's salt, so that not the same users are tried every time. Only the hash is used: the
key itself is neither kept, nor logged, nor exported.
"""

from collections.abc import Iterable
from hashlib import blake2b

_WHOLE = 100
_BYTES = 8


def key_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of the header `name` (lower case, as ASGI has it), stripped; empty where there is none."""
    return next((value.strip() for found, value in headers if found == name), b"")


def is_candidates(salt: str, key: bytes, weight: int) -> bool:
    """Whether the requests of this key go to the candidate at this weight (0 to 100 percent).

    A key that does at some weight does so at every higher one.
    """
    place = int.from_bytes(blake2b(salt.encode() + b"\0" + key, digest_size=_BYTES).digest(), "big")
    return place * _WHOLE < weight << (8 * _BYTES)
