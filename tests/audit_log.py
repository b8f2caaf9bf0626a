"""What an API server's audit log tells while it is being written."""

import json
from pathlib import Path
from typing import Any


def entries(log: Path) -> list[dict[str, Any]]:
    """All that are written whole: the last line may be on its way."""
    return [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]
