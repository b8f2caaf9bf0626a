"""The value of the split annotation: docs/contract.md, "The split"."""

import json
from datetime import timedelta

VERSION = 1


def split(generation: int, revision: str, weight: int, salt: str, ttl: timedelta | None) -> str:
    """``ttl=None`` with weight 100 is hand-over: it never expires."""
    seconds = None if ttl is None else round(ttl.total_seconds())
    return json.dumps(
        {
            "v": VERSION,
            "generation": generation,
            "revision": revision,
            "weight": weight,
            "salt": salt,
            "ttl": seconds,
        },
        separators=(",", ":"),
    )
