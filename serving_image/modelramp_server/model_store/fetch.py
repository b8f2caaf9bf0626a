"""`modelramp-server fetch`: download, verify, rename into place. What stands at MODEL_PATH is whole or not there."""

import errno
import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from modelramp_server.model_store import requirements
from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import ArtifactDamaged
from modelramp_server.settings import CommonSettings, FetchSettings, ServeSettings

log = logging.getLogger(__name__)


def fetch(settings: FetchSettings) -> Path:
    """Put the model at MODEL_PATH and its digest beside it, in `<name>.digest`.

    Raises:
        ModelProblem: with the reason of docs/contract.md.
    """
    target = Path(settings.model_path)
    digest_file = target.with_name(target.name + ".digest")
    source_file = target.with_name(target.name + ".source")
    source = f"{settings.mlflow_tracking_uri} {settings.model_uri}"
    same_source = source_file.is_file() and source_file.read_text() == source
    if same_source and _already_there(target, digest_file, settings.model_digest):
        log.info("%s is already at %s", settings.model_uri, target)
        requirements.check(mlmodel.read(target), settings.model_runtime, settings.allow_code)
        return target
    try:
        digest = _download(settings.model_uri, settings, target, settings.model_digest)
        digest_file.write_text(digest)
        source_file.write_text(source)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise RegistryUnavailable(f"{settings.model_uri} can't be written to {target}: {what}") from error
    log.info("fetched %s to %s, %s", settings.model_uri, target, digest)
    return target


def local_folder(settings: ServeSettings) -> Path:
    """The folder to serve: MODEL_PATH itself, or where a models:/ or runs:/ URI was fetched to.

    Raises:
        ModelProblem: the fetch failed, or the folder is none.
    """
    given = settings.model_path
    if given.startswith(("models:/", "runs:/")):
        return _fetched(given, settings)
    folder = Path(given)
    if not folder.is_dir():
        raise ArtifactDamaged(f"{folder} is no folder; --model takes a model's folder or a models:/ URI")
    return folder


def _fetched(uri: str, settings: ServeSettings) -> Path:
    from modelramp_server.model_store import registry

    found = registry.resolve(uri, settings.mlflow_tracking_uri)
    pinned = found.uri if found is not None else uri
    log.info("%s is %s", uri, pinned)
    if found is not None:
        settings.model_version = settings.model_version or found.version
        settings.model_name = settings.model_name or found.name
    key = hashlib.sha256(f"{settings.mlflow_tracking_uri} {pinned}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelramp"
    shared = settings.model_dump(exclude={"model_path"}, include=set(CommonSettings.model_fields))
    return fetch(FetchSettings(model_path=str(cache / key / "model"), model_uri=pinned, model_digest="", **shared))


def _already_there(target: Path, digest_file: Path, expected: str) -> bool:
    if not target.is_dir() or not digest_file.is_file():
        return False
    recorded = digest_file.read_text().strip()
    return expected in ("", recorded) and artifact_digest(target) == recorded


def _download(uri: str, settings: FetchSettings, target: Path, expected: str) -> str:
    from modelramp_server.model_store import registry

    if not settings.mlflow_tracking_uri:
        raise RegistryUnavailable("MLFLOW_TRACKING_URI is not set; it is the address of the MLflow server")
    found = registry.resolve(uri, settings.mlflow_tracking_uri)
    if found is not None and found.uri != uri:
        raise ModelNotFound(f"{uri} is not pinned; it means {found.uri} now, and may mean another tomorrow")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch:
        root = registry.download(uri, settings.mlflow_tracking_uri, Path(scratch))
        model = mlmodel.read(root)
        digest = artifact_digest(root)
        if expected not in ("", digest):
            raise ArtifactDamaged(f"{uri} has the digest {digest}, expected was {expected}")
        requirements.check(model, settings.model_runtime, settings.allow_code)
        if target.exists():
            shutil.rmtree(target)
        root.rename(target)
    return digest
