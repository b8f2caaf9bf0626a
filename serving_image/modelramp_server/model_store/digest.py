"""A digest over a whole artifact: sha256 of its sorted `<sha256 of the file>  <relative path>` lines."""

import hashlib
from pathlib import Path

from modelramp_server.runtime.base import ArtifactDamaged

# Written by MLflow's client beside the download, not part of the artifact.
_NOT_OF_THE_ARTIFACT = {"registered_model_meta"}


def artifact_digest(root: Path) -> str:
    """`sha256:<hex>` over every file's path and content.

    Raises:
        ArtifactDamaged: the artifact holds a link, or a file can't be read.
    """
    lines = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise ArtifactDamaged(f"the artifact holds a symbolic link, {name}; log the model again without it")
        if path.is_file() and name not in _NOT_OF_THE_ARTIFACT:
            lines.append(f"{_file_digest(path)}  {name}\n")
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactDamaged(f"{path.name} can't be read: {error.strerror}") from None
