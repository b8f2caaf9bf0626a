"""Three more versions of the demo's model, which a Triton runs: a folder as its model repository has it, logged with
MLflow under the flavour `triton`, which the server can't load itself.

Run in a process of its own, since it needs MLflow: ``python -m tests.e2e.triton_models <address of MLflow>`` prints
the number of each version, by name, as JSON.
"""

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlflow.models import Model
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler

from examples.digits import models
from examples.digits.data import PIXELS, split
from examples.digits.names import INPUT, MODEL, OUTPUT
from examples.digits.train import Candidate, register

FLAVOR = "triton"
CONFIG = f"""
backend: "python"
max_batch_size: 0
input [ {{ name: "{INPUT}" data_type: TYPE_FP32 dims: [ -1, {PIXELS} ] }} ]
output [ {{ name: "{OUTPUT}" data_type: TYPE_INT64 dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
LINEAR = f"""
import os
import numpy as np
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, args):
        weights = np.load(os.path.join(args["model_repository"], args["model_version"], "weights.npz"))
        self.coefficients, self.intercepts = weights["coefficients"], weights["intercepts"]

    def execute(self, requests):
        return [self.one(backend.get_input_tensor_by_name(request, "{INPUT}").as_numpy()) for request in requests]

    def one(self, images):
        digits = (images @ self.coefficients.T + self.intercepts).argmax(axis=1)
        return backend.InferenceResponse([backend.Tensor("{OUTPUT}", digits.astype(np.int64))])
"""
CRASHES = "raise ValueError('the author forgot a file')\n"


def linear(pipeline: Pipeline, folder: Path) -> None:
    """A scaled linear model, to be computed in numpy."""
    scaler, regression = pipeline
    np.savez(
        folder / "weights.npz",
        coefficients=(regression.coef_ * scaler.scale_).astype(np.float32),
        intercepts=(regression.intercept_ + regression.coef_ @ scaler.min_).astype(np.float32),
    )
    (folder / "model.py").write_text(LINEAR)


def from_all_images() -> Pipeline:
    train, _ = split()
    pipeline = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=300))
    return pipeline.fit(train.images, train.labels)


def save_model(repository: Path, path: str, mlflow_model: Model) -> None:
    """Called by MLflow: what makes this module a flavour."""
    shutil.copytree(repository, Path(path) / FLAVOR)
    mlflow_model.add_flavor(FLAVOR, data=FLAVOR)
    mlflow_model.save(str(Path(path) / "MLmodel"))


def log(model: Pipeline | None) -> int:
    """Logs and registers it, or one that fails when it is loaded; the version's number."""
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        version = repository / MODEL / "1"
        version.mkdir(parents=True)
        (repository / MODEL / "config.pbtxt").write_text(CONFIG)
        if model is None:
            (version / "model.py").write_text(CRASHES)
        else:
            linear(model, version)
        flavor: Any = sys.modules[__name__]
        info = Model.log(None, name=MODEL, flavor=flavor, registered_model_name=MODEL, repository=repository)
    return int(info.registered_model_version)


def main() -> None:
    numbers: dict[str, int] = {}
    versions = {"fair": models.fair(), "better": from_all_images(), "crashing": None}
    candidates = [Candidate(title, title, lambda it: numbers.update({it: log(versions[it])})) for title in versions]
    register(sys.argv[1], candidates)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
