"""Run as a script: logs and registers two versions of the digits model, as a user would, in both flavours."""

import sys
import time
import urllib.error
import urllib.request

import mlflow
import mlflow.onnx
import mlflow.sklearn

from tests.server import models


def wait_for(address: str, seconds: float = 60) -> None:
    """Until the server answers; it starts while this script imports."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    estimator = models.classifier()
    graph = models.onnx_classifier(estimator)
    example = models.digits()[0][:2]
    wait_for(sys.argv[1])
    mlflow.set_tracking_uri(sys.argv[1])
    common = {"registered_model_name": "digits", "pip_requirements": ["mlflow", "scikit-learn", "skops", "pandas"]}
    mlflow.sklearn.log_model(estimator, name="linear", serialization_format="skops", input_example=example, **common)
    mlflow.onnx.log_model(graph, name="graph", **common)
    mlflow.MlflowClient().set_registered_model_alias("digits", "prod", "2")
