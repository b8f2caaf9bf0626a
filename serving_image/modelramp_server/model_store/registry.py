"""What a registry tells of a version, and its many ways to fail, sorted into the contract's reasons."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit

from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable
from modelramp_server.model_store.origin import Registered, without_login
from modelramp_server.model_store.tracking import TrackingServer, suffices
from modelramp_server.runtime.base import ModelProblem

# mlflow's own defaults are 7 retries of 120 s each: a pod would hang for a quarter of an hour without a word.
_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LOGIN = re.compile(r"//[^/@\s]+@")
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/|$)")
_DATABASES = {"sqlite", "postgresql", "mysql", "mssql"}
_LONGEST = 500  # characters of what an error says
NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"}


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version as the registry tells of it. One that was deleted and made again has another `created`."""

    name: str
    version: str
    created: str
    source: str

    @property
    def uri(self) -> str:
        """As MLflow writes it."""
        return f"models:/{self.name}/{self.version}"


def resolve(model: Registered, tracking_uri: str) -> ModelVersion:
    """Ask the registry.

    Raises:
        ModelNotFound: no such model, version or alias.
        RegistryUnavailable: no answer, or rubbish.
    """
    refuse_without_address(model.uri, tracking_uri)
    registry = without_login(tracking_uri)
    try:
        found = _ask(model, tracking_uri)
    except Exception as error:
        raise _sorted(error, model.uri, registry) from error
    if found.name != model.name or not found.version or model.version not in ("", str(found.version)):
        raise RegistryUnavailable(f"the registry at {registry} answers rubbish when asked for {model.uri}")
    if found.status != "READY":
        raise RegistryUnavailable(f"{model.uri} is {found.status} in the registry at {registry}, not READY yet")
    return ModelVersion(found.name, str(found.version), str(found.creation_timestamp), str(found.source))


def refuse_without_address(uri: str, tracking_uri: str) -> None:
    """For what only a registry can answer.

    Raises:
        RegistryUnavailable: nobody said where it is.
    """
    if not tracking_uri:
        raise RegistryUnavailable(f"MLFLOW_TRACKING_URI is not set; {uri} is asked of the MLflow server there")


def tracking_server(tracking_uri: str) -> TrackingServer | None:
    """The registry, where it can be asked without MLflow's client."""
    _set_limits()
    return TrackingServer(tracking_uri) if suffices(tracking_uri) else None


def connect(tracking_uri: str) -> None:
    """Point MLflow's client at the registry.

    Raises:
        RegistryUnavailable: it can't be one.
    """
    _set_limits()
    scheme = urlsplit(tracking_uri).scheme
    if _HOST_AND_PORT.match(tracking_uri):
        raise RegistryUnavailable(f"MLFLOW_TRACKING_URI is {tracking_uri}; write http://{tracking_uri}")
    if scheme.partition("+")[0] in _DATABASES and find_spec("sqlalchemy") is None:
        raise RegistryUnavailable(
            f"MLFLOW_TRACKING_URI names a database ({scheme}): that needs the whole of MLflow (pip install mlflow), or "
            "an `mlflow server` before it, whose address is named instead"
        )
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)


def _set_limits() -> None:
    """Ours, where nobody chose others."""
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)


def line(error: BaseException) -> str:
    """What an error says, on one line, with what would help where that is known."""
    chain = list(causes(error))
    said = chain[-1] if isinstance(chain[-1], OSError) else error  # at the bottom: what the network said
    text = shorten(_LOGIN.sub("//", str(said)) or type(said).__name__, _LONGEST, placeholder=" ...")
    names = {type(cause).__name__ for cause in chain}
    if names & {"SSLError", "SSLCertVerificationError"}:
        text += ". REQUESTS_CA_BUNDLE names the file of a CA of your own"
    elif "ProxyError" in names:
        text += ". The proxy stands in HTTPS_PROXY or HTTP_PROXY; NO_PROXY lists what is reached without it"
    return text


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _ask(model: Registered, tracking_uri: str) -> Any:
    if server := tracking_server(tracking_uri):
        if model.alias:
            return server.by_alias(model.name, model.alias)
        return server.version(model.name, model.version)
    connect(tracking_uri)
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    if model.alias:
        return client.get_model_version_by_alias(model.name, model.alias)
    return client.get_model_version(model.name, model.version)


def _sorted(error: Exception, uri: str, registry: str) -> ModelProblem:
    # Only the registry's own JSON error says that something isn't there; a 404 page of a proxy does not.
    answered = type(error).__name__ in ("Refused", "RestException")
    if answered and getattr(error, "error_code", "") in NOT_THERE:
        return ModelNotFound(f"the registry at {registry} has no {uri}: {line(error)}")
    return RegistryUnavailable(f"the registry at {registry} does not tell about {uri}: {line(error)}")
