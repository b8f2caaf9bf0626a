"""Where the files of a model come from, one by one: a folder, the tracking server, or a store of MLflow's client."""

import errno
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from modelramp_server.model_store import registry
from modelramp_server.model_store.digest import NOT_OF_THE_ARTIFACT, artifact_files
from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable
from modelramp_server.model_store.origin import FORMS, Registered, parse, without_login
from modelramp_server.model_store.tracking import ProxiedFiles, files_of
from modelramp_server.runtime.base import ArtifactDamaged, MissingPackages, ModelProblem

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# The extra of pyproject.toml that brings a store's client, by the package that its import misses.
_EXTRAS = {"boto3": "s3", "botocore": "s3", "google": "gcs", "azure": "azure"}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its store lists it; the size in bytes, if the store tells."""

    name: str
    size: int | None


class Source(Protocol):
    """Files to be copied. `identity` says what they are; it is empty where they may change without a sign."""

    @property
    def uri(self) -> str:
        """Where they are, for people."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """What they are."""
        ...

    def files(self) -> list[RemoteFile]:
        """All files, with paths relative to the model's folder.

        Raises:
            ModelProblem: they can't be listed, or there are none.
        """
        ...

    def download(self, name: str, folder: Path) -> None:
        """Copy one file to its path under the folder.

        Raises:
            ModelProblem: the store does not give it.
            OSError: it can't be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder of this machine."""

    uri: str
    root: Path
    identity: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> list[RemoteFile]:
        """What is in the folder."""
        if not self.root.is_dir():
            raise ModelNotFound(f"{self.uri} is no folder here; write {FORMS}")
        return [RemoteFile(name, (self.root / name).stat().st_size) for name in artifact_files(self.root)]

    def download(self, name: str, folder: Path) -> None:
        """Copy one file."""
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.root / name, folder / name)


class StoreSource:
    """Files that MLflow's client reaches: by the tracking server, or directly in an object store."""

    def __init__(self, uri: str, tracking_uri: str, identity: Mapping[str, str]) -> None:
        self.uri = uri
        self.identity = identity
        self._tracking_uri = tracking_uri
        self._opened: Any = None

    def files(self) -> list[RemoteFile]:
        """What the store lists, folder by folder."""
        try:
            found = list(self._walk(""))
        except Exception as error:
            raise self._sorted(error, "can't be listed") from error
        if not found:
            raise ArtifactDamaged(f"the files of {self.uri} are missing from the artifact store")
        return found

    def download(self, name: str, folder: Path) -> None:
        """Get one file."""
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._repository().download_file(name, str(folder / name))
        except Exception as error:
            for cause in registry.causes(error):
                if isinstance(cause, OSError) and cause.errno in _OF_THE_DISK:
                    raise cause from None
            raise self._sorted(error, f"can't be downloaded ({name})") from error

    def _walk(self, folder: str) -> Iterator[RemoteFile]:
        for entry in self._repository().list_artifacts(folder or None):
            path = PurePosixPath(entry.path)
            if path.is_absolute() or ".." in path.parts:
                raise ArtifactDamaged(f"the store lists {entry.path!r} for {self.uri}, which is outside the model")
            if entry.is_dir:
                yield from self._walk(entry.path)
            elif entry.path not in NOT_OF_THE_ARTIFACT:
                yield RemoteFile(path.as_posix(), entry.file_size)

    def _repository(self) -> Any:
        if self._opened is None:
            self._opened = self._proxied() or _MlflowRepository(self.uri, self._tracking_uri)
        return self._opened

    def _proxied(self) -> ProxiedFiles | None:
        server = registry.tracking_server(self._tracking_uri)
        if server is None:
            return None
        wanted = parse(self.uri)
        location = server.location(wanted.name, wanted.version) if isinstance(wanted, Registered) else self.uri
        return files_of(server, location)

    def _sorted(self, error: Exception, what: str) -> ModelProblem:
        if isinstance(error, ModelProblem):
            return error
        for cause in registry.causes(error):
            if isinstance(cause, ImportError):
                return _missing_client(self.uri, cause)
            if _is_not_there(cause):
                return ArtifactDamaged(
                    f"the files of {self.uri} are missing from the artifact store: {registry.line(error)}"
                )
        by = f" from {without_login(self._tracking_uri)}" if self._tracking_uri else ""
        return RegistryUnavailable(f"{self.uri} {what}{by}: {registry.line(error)}")


class _MlflowRepository:
    """What stores implement for one file; download_artifacts would list it first, to learn that it is no folder."""

    def __init__(self, uri: str, tracking_uri: str) -> None:
        registry.connect(tracking_uri)
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(uri)
        self.list_artifacts = repository.list_artifacts
        self.download_file = repository._download_file


def _missing_client(uri: str, error: ImportError) -> MissingPackages:
    package = (error.name or str(error)).split(".")[0]
    extra = _EXTRAS.get(package) or ("azure" if "azure" in str(error) else "")
    if not extra:
        return MissingPackages(f"{uri} can't be read here: {error}; install what is missing into the image")
    return MissingPackages(
        f"{uri} is in a store that this image has no client for ({error}); install 'modelramp[{extra}]', "
        "or an image made with it (docs/server.md)"
    )


def _is_not_there(error: BaseException) -> bool:
    """Whether a store says that there is no such file: MLflow's errors, those of requests, S3 and Google."""
    if getattr(error, "error_code", "") in registry.NOT_THERE:
        return True
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", "")) in ("404", "NoSuchKey", "NoSuchBucket")
    return 404 in (getattr(response, "status_code", None), getattr(error, "code", None))
