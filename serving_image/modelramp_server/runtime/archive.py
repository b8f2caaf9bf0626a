"""A JSON document inside a model's zip file: what can be asked of the file before a library opens it."""

import json
import zipfile
from pathlib import Path
from typing import Any

from modelramp_server.runtime.base import ArtifactDamaged


def document(file: Path, member: str, kind: str) -> Any:
    """The member of the archive; `kind` says what the file should be.

    Raises:
        ArtifactDamaged: it is none.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read(member))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtifactDamaged(f"{file.name} is no {kind} file: {error}") from None
