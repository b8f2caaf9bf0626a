"""``python -m tests.e2e.silently_wrong URI``: registers a version of the demo's model that answers every request, with
the right types and often the wrong digit; prints its number. A process of its own: mlflow stays out of the tests'."""

import sys

from mlflow import MlflowClient

from examples.digits import models, train
from examples.digits.names import MODEL


def main() -> None:
    (uri,) = sys.argv[1:]
    train.register(uri, [train.Candidate("silently wrong", models.confused(), train.log_onnx)])
    versions = MlflowClient(uri).search_model_versions(f"name='{MODEL}'")
    print(max(int(version.version) for version in versions))


if __name__ == "__main__":
    main()
