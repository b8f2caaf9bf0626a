"""The value of the split annotation: docs/contract.md, "The split"."""

import json
from datetime import timedelta
from typing import Any

from modelramp.api.shadow import Shadow

VERSION = 1


def shadow(share: int, rules: Shadow) -> dict[str, Any]:
    """The field ``shadow``: percent of the requests to copy, and how the answers are compared."""
    return {"share": share, "tolerance": rules.tolerance, "iou": rules.mask_overlap}


def split(generation: int, revision: str, weight: int, salt: str, ttl: timedelta | None, **more: Any) -> str:
    """``ttl=None`` with weight 100 is hand-over: it never expires. ``more``: optional fields."""
    seconds = None if ttl is None else round(ttl.total_seconds())
    return json.dumps(
        {
            "v": VERSION,
            "generation": generation,
            "revision": revision,
            "weight": weight,
            "salt": salt,
            "ttl": seconds,
            **more,
        },
        separators=(",", ":"),
    )
