"""`modelramp-server fetch`: download, verify, rename into place. What stands at MODEL_PATH is whole or not there."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelramp_server.model_store import locks, origin, registry, requirements
from modelramp_server.model_store.cache import Cache, default_folder
from modelramp_server.model_store.copy import Copy, MakeRoom
from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable, cannot_write, disk_full
from modelramp_server.model_store.manifest import Manifest, key_of
from modelramp_server.model_store.origin import Folder, Origin, Registered, without_login
from modelramp_server.model_store.sources import FolderSource, Source, StoreSource
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import ArtifactDamaged
from modelramp_server.settings import CommonSettings, FetchSettings, LoadSettings, ServeSettings, in_cluster

log = logging.getLogger(__name__)


def fetch(settings: FetchSettings) -> Path:
    """Put the model at MODEL_PATH and its digest beside it, in `<name>.digest`.

    Raises:
        ModelProblem: with the reason of docs/contract.md.
    """
    wanted = _pinned(origin.parse(settings.model_uri), settings.mlflow_tracking_uri)
    target = Copy(Path(settings.model_path))
    with _told(wanted.uri, target.folder):
        target.folder.parent.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(target.lock, str(target.folder)):
            manifest = _place(target, wanted, settings)
    log.info("%s is at %s, %s", wanted.uri, target.folder, manifest.digest)
    if not settings.upstream:
        requirements.check(mlmodel.read(target.folder), settings.model_runtime, settings.allow_code)
    return target.folder


def served_folder(settings: ServeSettings) -> Path | None:
    """The folder of the model that is to be served; with UPSTREAM it is where its example is, if anywhere.

    Raises:
        ModelProblem: the fetch failed, or the folder is none.
    """
    if not settings.upstream:
        return local_folder(settings)
    return Path(settings.model_path) if settings.model_path else None


def local_folder(settings: LoadSettings) -> Path:
    """The folder to serve: MODEL_PATH itself, or the cached copy of the address that stands there.

    Raises:
        ModelProblem: the fetch failed, or the folder is none.
        InvalidSettings: there is no folder for copies.
    """
    wanted = _pinned(origin.parse(settings.model_path), settings.mlflow_tracking_uri)
    if isinstance(wanted, Registered):
        settings.model_version = settings.model_version or wanted.version
        settings.model_name = settings.model_name or wanted.name
    if isinstance(wanted, Folder):
        folder = _checked(wanted.path, settings.model_digest)
    else:
        cache = settings.model_cache or default_folder()
        with _told(wanted.uri, cache):
            folder = _cached(wanted, settings, cache)[0]
    requirements.check(mlmodel.read(folder), settings.model_runtime, settings.allow_code)
    return folder


def _pinned(wanted: Origin, tracking_uri: str) -> Origin:
    """The version that an alias means now; what is no alias, as it is."""
    if not isinstance(wanted, Registered) or wanted.version:
        return wanted
    if in_cluster():
        raise ModelNotFound(
            f"{wanted.uri} is an alias, and aliases are for local use: when it moves, the pods of one Deployment would "
            f"serve different versions, unproven. Write models:/{wanted.name}/<version>; the operator follows the alias"
        )
    found = registry.resolve(wanted, tracking_uri)
    log.info("%s is %s now", wanted.uri, found.uri)
    return Registered(found.name, found.version)


def _checked(folder: Path, expected: str) -> Path:
    try:
        there = folder.is_dir()
    except OSError as error:
        raise ArtifactDamaged(f"{folder} can't be read: {error.strerror}") from None
    if not there:
        raise ArtifactDamaged(f"{folder} is no folder; --model takes {origin.FORMS}")
    if expected and artifact_digest(folder) != expected:
        raise ArtifactDamaged(f"{folder} has the digest {artifact_digest(folder)}, expected was {expected}")
    return folder


def _place(target: Copy, wanted: Origin, settings: FetchSettings) -> Manifest:
    if isinstance(wanted, Folder) or settings.model_cache is None:
        return _obtain(target, wanted, settings, _disk(wanted.uri, target.folder))
    folder, cached = _cached(wanted, settings, settings.model_cache)
    source = FolderSource(wanted.uri, folder, {"digest": cached.digest})
    return _brought(target, target.manifest(), source, _disk(wanted.uri, target.folder), cached.digest)


def _cached(wanted: Origin, settings: CommonSettings, folder: Path) -> tuple[Path, Manifest]:
    """The copy in the cache, in use by this process until it ends."""
    cache = Cache(folder, settings.model_cache_limit)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted.uri.split(":", 1)[-1]).strip("-.")[-60:]
    key = f"{readable}-{key_of(without_login(settings.mlflow_tracking_uri), wanted.uri)}"
    with cache.copy(key, wanted.uri) as copy:
        return copy.folder, _obtain(copy, wanted, settings, lambda needed: cache.room(key, needed, wanted.uri))


def _obtain(copy: Copy, wanted: Origin, settings: CommonSettings, make_room: MakeRoom) -> Manifest:
    """The copy, whole: as it is if it is known to be what is wanted, else fetched."""
    expected = settings.model_digest
    have = copy.manifest()
    if have is not None and expected == have.digest:
        return have
    try:
        source = _source(wanted, settings.mlflow_tracking_uri)
        return _brought(copy, have, source, make_room, expected)
    except RegistryUnavailable as problem:
        if have is None or expected:
            raise
        if not isinstance(wanted, Registered):
            raise RegistryUnavailable(
                f"{problem}. A copy is here, but {wanted.uri} names no version, so that it may be an old one; "
                f"MODEL_DIGEST={have.digest} allows it"
            ) from problem
        if {**have.identity, **_identity(wanted, settings.mlflow_tracking_uri)} != have.identity:
            raise
        log.warning("%s; the copy of %s that is here is used", problem, wanted.uri)
        return have


def _brought(copy: Copy, have: Manifest | None, source: Source, make_room: MakeRoom, expected: str) -> Manifest:
    if have is not None and source.identity and have.identity == source.identity and expected in ("", have.digest):
        return have
    return copy.fill(source, make_room, expected)


def _source(wanted: Origin, tracking_uri: str) -> Source:
    if isinstance(wanted, Folder):
        return FolderSource(wanted.uri, wanted.path)
    if isinstance(wanted, Registered):
        found = registry.resolve(wanted, tracking_uri)
        identity = {**_identity(wanted, tracking_uri), "created": found.created, "source": found.source}
        return StoreSource(wanted.uri, tracking_uri, identity)
    if wanted.needs_registry:
        registry.refuse_without_address(wanted.uri, tracking_uri)
    return StoreSource(wanted.uri, tracking_uri, {})


def _identity(wanted: Registered, tracking_uri: str) -> dict[str, str]:
    return {"uri": wanted.uri, "registry": without_login(tracking_uri)}


def _disk(uri: str, folder: Path) -> MakeRoom:
    @contextmanager
    def room(needed: int) -> Iterator[None]:
        if needed > shutil.disk_usage(folder.parent).free:
            raise disk_full(uri, folder.parent, needed)
        yield

    return room


@contextmanager
def _told(uri: str, folder: Path) -> Iterator[None]:
    """Turns what a disk refuses into a sentence."""
    try:
        yield
    except OSError as error:
        raise cannot_write(uri, folder, error) from error
