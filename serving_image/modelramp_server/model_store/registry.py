"""MLflow's client with limits of our own, and its many ways to fail sorted into the contract's reasons."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable
from modelramp_server.runtime.base import ArtifactDamaged, ModelProblem

# mlflow's own defaults are 7 retries of 120 s each: a pod would hang for a quarter of an hour without a word.
_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_MODEL_URI = re.compile(r"models:/([^/@]+)(?:/([^/@]+)|@([^/@]+))")
_NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A pinned version of a registered model."""

    name: str
    version: str

    @property
    def uri(self) -> str:
        """As MLflow writes it."""
        return f"models:/{self.name}/{self.version}"


def resolve(uri: str, tracking_uri: str) -> ModelVersion | None:
    """The pinned version that a models:/ URI means; None for a runs:/ URI.

    Raises:
        ModelNotFound: no such model, version or alias, or the URI is none.
        RegistryUnavailable: no answer, or rubbish.
    """
    if uri.startswith("runs:/"):
        return None
    match = _MODEL_URI.fullmatch(uri)
    if match is None:
        raise ModelNotFound(f"{uri} is no model URI; write models:/<name>/<version>")
    name, version, alias = match.groups()
    try:
        client = _client(tracking_uri)
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    except Exception as error:
        raise _sorted(error, uri, tracking_uri) from error
    if found.name != name or not found.version:
        raise RegistryUnavailable(f"the registry at {tracking_uri} answers rubbish when asked for {uri}")
    if found.status != "READY":
        raise RegistryUnavailable(f"{uri} is {found.status} in the registry at {tracking_uri}, not READY yet")
    return ModelVersion(name, str(found.version))


def download(uri: str, tracking_uri: str, folder: Path) -> Path:
    """Download a model into `folder`.

    Returns:
        Where the model's files are.

    Raises:
        ModelProblem: RegistryUnavailable or ArtifactDamaged.
    """
    mlflow = _mlflow(tracking_uri)
    try:
        local = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
    except Exception as error:
        text = str(error)
        if "404" in text or getattr(error, "error_code", "") in _NOT_THERE:
            raise ArtifactDamaged(f"the files of {uri} are missing from the artifact store: {_line(error)}") from error
        raise RegistryUnavailable(f"{uri} can't be downloaded from {tracking_uri}: {_line(error)}") from error
    return Path(local)


def _mlflow(tracking_uri: str) -> Any:
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)
    import mlflow.artifacts

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    return mlflow


def _client(tracking_uri: str) -> Any:
    _mlflow(tracking_uri)
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def _sorted(error: Exception, uri: str, tracking_uri: str) -> ModelProblem:
    # Only the registry's own JSON error says that something isn't there; a 404 page of a proxy does not.
    answered = type(error).__name__ == "RestException"
    if answered and getattr(error, "error_code", "") in _NOT_THERE:
        return ModelNotFound(f"the registry at {tracking_uri} has no {uri}: {_line(error)}")
    return RegistryUnavailable(f"the registry at {tracking_uri} does not tell about {uri}: {_line(error)}")


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
