"""What makes a revision: the model's identity and what the user chose about serving it.

Nothing that the operator fills in is part of it,
so neither a new release of the operator nor a new default makes a new revision of what serves.
"""

import hashlib
import json
from typing import Any

from modelramp.api.server import Server
from modelramp.domain.world import ModelVersion


def identity(model: ModelVersion, server: Server, credentials: str | None) -> str:
    """Eight hex digits over everything that a change of would change the answers. Scaling is not among it."""
    chosen: dict[str, Any] = server.model_dump(mode="json", by_alias=True, exclude_none=True)
    parts = [model.registry, model.name, model.version, model.created, model.source, credentials or "", chosen]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
