"""What an address says of a model, before anybody is asked: a version of a registry, an alias, or files somewhere."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from modelramp_server.model_store.failures import ModelNotFound

_REGISTERED = re.compile(r"models:/([^/@]+)(?:/([^/@]+)|@([^/@]+))")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")
_BY_THE_TRACKING_SERVER = ("runs", "mlflow-artifacts")
_STORES = (*_BY_THE_TRACKING_SERVER, "s3", "gs", "wasbs")
FORMS = "models:/<name>/<version>, runs:/<run>/<path>, s3://, gs:// or wasbs:// and a path, or a folder"


@dataclass(frozen=True, slots=True)
class Registered:
    """A model of the registry: one version, or what an alias means."""

    name: str
    version: str = ""
    alias: str = ""

    @property
    def uri(self) -> str:
        """As MLflow writes it."""
        return f"models:/{self.name}/{self.version}" if self.version else f"models:/{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True)
class Stored:
    """The files of a run, or in an object store: whatever is there now."""

    uri: str

    @property
    def needs_registry(self) -> bool:
        """Whether the tracking server knows where the files are."""
        return self.uri.split(":")[0] in _BY_THE_TRACKING_SERVER


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this machine."""

    path: Path

    @property
    def uri(self) -> str:
        """As it was written."""
        return str(self.path)


Origin = Registered | Stored | Folder


def parse(address: str) -> Origin:
    """What the address means.

    Raises:
        ModelNotFound: nothing.
    """
    match = _SCHEME.match(address)
    if match is None:
        return Folder(Path(address))
    if match[1] == "file":
        return Folder(Path(unquote(urlsplit(address).path)))
    if match[1] in _STORES:
        return Stored(address)
    registered = _REGISTERED.fullmatch(address)
    if registered is None:
        raise ModelNotFound(f"{address} is no address of a model; write {FORMS}")
    name, version, alias = registered.groups()
    if version and not version.isdigit():
        raise ModelNotFound(f"{address} names a stage, not a version; write models:/<name>/<version>, a number")
    return Registered(name, version or "", alias or "")


def without_login(address: str) -> str:
    """The address without a user and password in it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.password else address
