"""The value of the split annotation: docs/contract.md, "The split"."""

import json
from datetime import timedelta
from typing import Any

from modelramp.api.shadow import Shadow

VERSION = 1  # of the format: docs/contract.md


def shadow(share: int, rules: Shadow) -> dict[str, Any]:
    """The field ``shadow``: percent of the requests to copy, and how the answers are compared."""
    return {"share": share, "tolerance": rules.tolerance, "iou": rules.mask_overlap}


def split(
    generation: int,
    revision: str,
    weight: int,
    salt: str,
    ttl: timedelta | None,
    header: str | None = None,
    copies: dict[str, Any] | None = None,
) -> str:
    """``ttl=None`` with weight 100 is hand-over: it never expires. ``header`` names what keeps requests together;
    ``copies`` is the field ``shadow``."""
    value: dict[str, Any] = {
        "v": VERSION,
        "generation": generation,
        "revision": revision,
        "weight": weight,
        "salt": salt,
        "ttl": None if ttl is None else round(ttl.total_seconds()),
    }
    if header is not None:
        value["header"] = header.lower()
    if copies is not None:
        value["shadow"] = copies
    return json.dumps(value, separators=(",", ":"))
