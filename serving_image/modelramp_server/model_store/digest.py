"""A digest over a whole artifact: sha256 of its sorted `<sha256 of the file>  <relative path>` lines."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from modelramp_server.runtime.base import ArtifactDamaged

# Written by MLflow's client beside the download, not part of the artifact.
NOT_OF_THE_ARTIFACT = {"registered_model_meta"}


def artifact_digest(root: Path) -> str:
    """`sha256:<hex>` over every file's path and content.

    Raises:
        ArtifactDamaged: the artifact holds a link, or a file can't be read.
    """
    return combined_digest((name, file_digest(root / name)) for name in artifact_files(root))


def artifact_files(root: Path) -> list[str]:
    """The paths of the artifact's files, relative to its folder.

    Raises:
        ArtifactDamaged: the artifact holds a link.
    """
    names = []
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise ArtifactDamaged(f"the artifact holds a symbolic link, {name}; log the model again without it")
        if path.is_file() and name not in NOT_OF_THE_ARTIFACT:
            names.append(name)
    return names


def combined_digest(files: Iterable[tuple[str, str]]) -> str:
    """`sha256:<hex>` over pairs of relative path and sha256, in any order."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(files, key=lambda pair: pair[0].split("/"))]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's content, in hex.

    Raises:
        ArtifactDamaged: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactDamaged(f"{path.name} can't be read: {error.strerror}") from None
