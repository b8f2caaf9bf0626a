"""Trains the four versions and registers them, in order, as versions 1 to 4 of the model ``digits``."""

import argparse
import logging
import os
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
import mlflow
import mlflow.onnx
import mlflow.sklearn
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from . import bodies, models
from .data import PIXELS
from .names import INPUT, MODEL, OUTPUT

START = 180.0  # seconds for MLflow to start on a busy machine
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, PIXELS), INPUT)]),
    outputs=Schema([TensorSpec(np.dtype(np.int64), (-1,), OUTPUT)]),
)


def _pins(*packages: str) -> list[str]:
    return [f"{package}=={version(package)}" for package in packages]


def log_sklearn(model: Any) -> None:
    mlflow.sklearn.log_model(
        model,
        name=MODEL,
        registered_model_name=MODEL,
        signature=SIGNATURE,
        serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
        pip_requirements=_pins("scikit-learn", "skops"),
    )


def log_onnx(model: Any) -> None:
    """Raises mlflow.MlflowException."""
    mlflow.onnx.log_model(
        model,
        name=MODEL,
        registered_model_name=MODEL,
        signature=SIGNATURE,
        save_as_external_data=False,
        pip_requirements=_pins("onnxruntime"),
    )


@dataclass(frozen=True)
class Candidate:
    """A trained model, and how it is logged."""

    title: str
    model: Any
    log: Callable[[Any], None]


def build() -> list[Candidate]:
    """All four, in the order of their versions."""
    return [
        Candidate("a fair linear model", models.fair(), log_sklearn),
        Candidate("a better one", models.better(), log_onnx),
        Candidate("fails on some real images", models.out_of_range(), log_onnx),
        Candidate("never finishes warming up", models.never_done(), log_onnx),
    ]


def register(tracking_uri: str, candidates: list[Candidate]) -> None:
    """Log and register them against the MLflow server at this address. Raises mlflow.MlflowException."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(MODEL)
    for candidate in candidates:
        with mlflow.start_run(run_name=candidate.title):
            candidate.log(candidate.model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tracking_uri", help="for example http://127.0.0.1:5000; it may still be starting")
    parser.add_argument("images", type=Path, help="file to write the held-out images to, for the clients")
    arguments = parser.parse_args()
    bodies.write(arguments.images)
    versions = build()
    await_server(arguments.tracking_uri)
    register(arguments.tracking_uri, versions)


def await_server(tracking_uri: str) -> None:
    """Raises SystemExit if it does not answer in time."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{tracking_uri}/health", timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise SystemExit(f"MLflow at {tracking_uri} does not answer after {START:.0f} s")


if __name__ == "__main__":
    main()
