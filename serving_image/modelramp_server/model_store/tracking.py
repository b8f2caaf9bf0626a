"""The few questions that a fetch asks of an MLflow server, without MLflow's client, whose import takes two seconds.

Logins, certificates, proxies and retries are those of MLflow's client: the same variables, the same HTTP library. Where
something is set that only that client knows (`suffices`), it is asked instead.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import requests

_REST, _ARTIFACTS = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
_SERVER_INFO = "/api/3.0/mlflow/server-info"
_RETRIED = (408, 429, 500, 502, 503, 504)
_PIECE = 1 << 20  # bytes
_ONLY_MLFLOW_KNOWS = (
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_WORKSPACE",
    "MLFLOW_ALLOW_HTTP_REDIRECTS",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER",
)
_PLUGINS = {"mlflow.request_header_provider", "mlflow.artifact_repository", "mlflow.model_registry_store"}


class Refused(Exception):
    """An error in the server's own words, which is JSON with an error code."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.error_code = str(document.get("error_code") or "INTERNAL_ERROR")
        super().__init__(f"{self.error_code}: {document.get('message', document)}")


class Unreadable(Exception):
    """An answer that is not of an MLflow server: a page, half of a document."""


class Version(BaseModel):
    """A model version; a field that is not told is empty."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    name: str = ""
    version: str = ""
    status: str = "unknown"
    creation_timestamp: str = ""
    source: str = ""


class Entry(BaseModel):
    """A file or a folder as its store lists it; the path begins at the model's folder."""

    path: str
    is_dir: bool = False
    file_size: int | None = None


class TrackingServer:
    """A server at an http or https address. Methods raise what `requests` raises, `Refused`, and `Unreadable`."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")

    def version(self, name: str, number: str) -> Version:
        """Of a registered model."""
        return self._version("/model-versions/get", name=name, version=number)

    def by_alias(self, name: str, alias: str) -> Version:
        """What the alias means now."""
        return self._version("/registered-models/alias", name=name, alias=alias)

    def location(self, name: str, number: str) -> str:
        """The address of the version's files."""
        document = self._json("/model-versions/get-download-uri", name=name, version=number)
        return str(document.get("artifact_uri", ""))

    def gives_presigned_addresses(self) -> bool:
        """Whether large files are to be had in parts, from the store itself."""
        import requests

        try:
            answer = self._get(_SERVER_INFO)
            return answer.status_code == 200 and bool(_document(answer).get("multipart_downloads_enabled"))
        except (requests.RequestException, Unreadable):
            return False

    def list(self, folder: str) -> Iterator[dict[str, Any]]:
        """The entries of a folder of artifacts, each with its own name as path."""
        answer = self._get(_ARTIFACTS, {"path": folder})
        _raise_for_status(answer)
        yield from _document(answer).get("files", [])

    def download(self, file: str, place: Path) -> None:
        """Write one artifact to this place."""
        with self._get(f"{_ARTIFACTS}/{quote(file)}", stream=True) as answer:
            _raise_for_status(answer)
            with place.open("wb") as written:
                for piece in answer.iter_content(_PIECE):
                    written.write(piece)

    def _version(self, path: str, **asked: str) -> Version:
        return Version.model_validate(self._json(path, **asked).get("model_version", {}))

    def _json(self, path: str, **asked: str) -> dict[str, Any]:
        answer = self._get(_REST + path, asked)
        document = _document(answer)
        if answer.status_code != 200:
            raise Refused(document)
        return document

    def _get(self, path: str, query: Mapping[str, str] | None = None, stream: bool = False) -> "requests.Response":
        timeout = int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        return self._session.get(self._address + path, params=query, stream=stream, timeout=timeout, **self._login)

    @cached_property
    def _session(self) -> "requests.Session":
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        session = requests.Session()
        limit = int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
        backoff = float(os.environ["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"])
        retry = Retry(limit, status_forcelist=_RETRIED, backoff_factor=backoff, backoff_jitter=1, allowed_methods=None)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        return session

    @property
    def _login(self) -> dict[str, Any]:
        """What goes with each request; read each time, as MLflow's client does."""
        user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
        headers = {}
        if user and password:
            from base64 import b64encode

            headers["Authorization"] = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        return {
            "headers": headers,
            "verify": os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True,
            "cert": os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None,
        }


class ProxiedFiles:
    """The files below one folder of a server's artifacts, as MLflow's own repositories give them."""

    def __init__(self, server: TrackingServer, folder: str) -> None:
        self._server = server
        self._folder = folder.strip("/")

    def list_artifacts(self, folder: str | None) -> Iterator[Entry]:
        """The entries of a folder of the model, or of the model's own; with paths from there."""
        for entry in self._server.list("/".join(filter(None, (self._folder, folder)))):
            named = Entry.model_validate(entry)
            yield named.model_copy(update={"path": f"{folder}/{named.path}" if folder else named.path})

    def download_file(self, name: str, place: str) -> None:
        """Write one file to this place."""
        self._server.download(f"{self._folder}/{name}", Path(place))


def suffices(address: str) -> bool:
    """Whether the server can be asked without MLflow's client."""
    return (
        urlsplit(address).scheme in ("http", "https")
        and not any(os.environ.get(name) for name in _ONLY_MLFLOW_KNOWS)
        and not _has_credentials_file()
        and _PLUGINS.isdisjoint(entry_points().groups)
    )


def _has_credentials_file() -> bool:
    try:
        return (Path.home() / ".mlflow/credentials").exists()
    except RuntimeError:  # this user has no home
        return False


def files_of(server: TrackingServer, location: str) -> ProxiedFiles | None:
    """The files at an address that the server itself reads from; None: MLflow's client knows better how."""
    parts = urlsplit(location)
    if parts.scheme != "mlflow-artifacts" or parts.netloc or server.gives_presigned_addresses():
        return None
    return ProxiedFiles(server, parts.path)


def _document(answer: "requests.Response") -> dict[str, Any]:
    text = answer.text.strip()
    try:
        document = answer.json() if text else {}
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Unreadable(f"{answer.status_code}, and no JSON object but {text[:200]!r}")
    return document


def _raise_for_status(answer: "requests.Response") -> None:
    import requests

    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        raise requests.HTTPError(f"{error}. {answer.text}", request=error.request, response=answer) from None
