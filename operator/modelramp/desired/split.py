"""The value of the split annotation: docs/contract.md, "The split"."""

import json
from datetime import timedelta
from typing import Any

from modelramp.domain.traffic import SPLIT_VERSION


def split(
    generation: int, revision: str, weight: int, salt: str, ttl: timedelta | None, header: str | None = None
) -> str:
    """``ttl=None`` with weight 100 is hand-over: it never expires. ``header`` names what keeps requests together."""
    value: dict[str, Any] = {
        "v": SPLIT_VERSION,
        "generation": generation,
        "revision": revision,
        "weight": weight,
        "salt": salt,
        "ttl": None if ttl is None else round(ttl.total_seconds()),
    }
    if header is not None:
        value["header"] = header.lower()
    return json.dumps(value, separators=(",", ":"))
