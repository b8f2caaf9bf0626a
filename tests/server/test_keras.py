"""Keras 3 models on torch: what they say of their inputs, and what they may bring with them."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import LoadFailed, UnsupportedModel
from modelramp_server.runtime.choice import load
from tests.server import formats, models

pytest.importorskip("torch")
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")

# Keras's own, at numpy's arrays of torch's tensors.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def load_cpu(folder: Path, allow_code: bool = False) -> Any:
    return load(mlmodel.read(folder), "auto", "cpu", allow_code)


def test_inputs_and_outputs_of_several_kinds(tmp_path: Path) -> None:
    numbers, codes = keras.Input((3,), name="numbers"), keras.Input((), dtype="int32", name="codes")
    embedded = keras.layers.Embedding(5, 3)(codes)
    both = keras.layers.Add()([numbers, embedded])
    model = keras.Model([numbers, codes], {"sum": both, "most": keras.ops.argmax(both, axis=1)})
    folder = tmp_path / "model"
    model.save(formats.keras_folder(folder) / "model.keras")
    models.write_mlmodel(folder, {"keras": {"data": "data"}}, [], [])
    runtime = load_cpu(folder)
    specs = [(spec.name, spec.datatype, spec.shape) for spec in runtime.inputs]
    assert specs == [("numbers", "FP32", (-1, 3)), ("codes", "INT32", (-1,))]
    inputs = {"numbers": np.eye(3, dtype=np.float32)[:2], "codes": np.array([0, 4], np.int32)}
    wanted = model([inputs["numbers"], inputs["codes"]])["sum"].detach().numpy()
    outputs = runtime.predict(inputs)
    assert np.allclose(outputs["sum"], wanted) and outputs["most"].tolist() == wanted.argmax(1).tolist()


def test_a_lambda_runs_only_where_code_is_allowed(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((64,)), keras.layers.Lambda(lambda x: x * 2, output_shape=(64,))])
    model.save(formats.keras_folder(tmp_path / "model") / "model.keras")
    with pytest.raises(UnsupportedModel, match="ALLOW_CODE"):
        load_cpu(tmp_path / "model")
    runtime = load_cpu(tmp_path / "model", allow_code=True)
    (output,) = runtime.predict({runtime.inputs[0].name: np.ones((1, 64), np.float32)}).values()
    assert (output == 2).all()


def test_a_damaged_file_is_named(tmp_path: Path, estimator: Any) -> None:
    folder = formats.keras(tmp_path / "model", estimator)
    path = folder / "data" / "model.keras"
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
    with pytest.raises(LoadFailed, match=r"Keras can't load model\.keras"):
        load_cpu(folder)
