"""The store's share of the failures; the model's own stand in runtime/base.py. Reasons: docs/contract.md."""

import errno
import shutil
from pathlib import Path

from modelramp_server import sizes
from modelramp_server.runtime.base import ModelProblem


class RegistryUnavailable(ModelProblem):
    """The registry does not answer, answers rubbish, or the disk can't take what it sends."""

    reason = "RegistryUnavailable"


class ModelNotFound(ModelProblem):
    """The registry has no such model, version or alias."""

    reason = "ModelNotFound"


def cannot_write(uri: str, folder: Path, error: OSError) -> RegistryUnavailable:
    """What kept the model from being written, and what would help."""
    if error.errno == errno.ENOSPC:
        return disk_full(uri, folder)
    if error.errno == errno.EDQUOT:
        return RegistryUnavailable(f"{uri} can't be written to {folder}: the quota is used up; ask for a larger one")
    where = f" ({error.filename})" if error.filename else ""
    return RegistryUnavailable(f"{uri} can't be written to {folder}: {error.strerror or error}{where}")


def disk_full(uri: str, folder: Path, needed: int | None = None) -> RegistryUnavailable:
    """The disk can't take the model."""
    usage = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
    need = f", {sizes.shown(needed)} are needed" if needed is not None else ""
    return RegistryUnavailable(
        f"{uri} can't be written: the disk is full at {folder}: {sizes.shown(usage.free)} free of "
        f"{sizes.shown(usage.total)}{need}; free some, or make the volume larger"
    )
