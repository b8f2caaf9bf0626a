"""Which models are served, by what, and how the others are refused: a reason and a sentence, before traffic."""

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from modelramp_server.batching.warmup import warm_up
from modelramp_server.model_store import requirements
from modelramp_server.runtime import mlmodel, skops_file
from modelramp_server.runtime.base import (
    ArtifactDamaged,
    LoadFailed,
    MissingPackages,
    ModelProblem,
    UnsupportedModel,
)
from modelramp_server.runtime.choice import load
from tests.server import models

FEW = np.random.default_rng(0).random((60, 4))
CLASSES = np.arange(60) % 3


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(3),
        GradientBoostingClassifier(n_estimators=3),
        HistGradientBoostingClassifier(max_iter=3),
        IsolationForest(n_estimators=3),
        MLPClassifier((4,), solver="adam", max_iter=3000, tol=0.1),
        CalibratedClassifierCV(LogisticRegression()),
        make_pipeline(StandardScaler(), PolynomialFeatures(), RandomForestClassifier(3)),
        StackingClassifier([("forest", RandomForestClassifier(3))]),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_common_estimators_load_and_answer_as_before(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(FEW, CLASSES)
    path = tmp_path / "model.skops"
    skops.io.dump(estimator, path)
    assert (skops_file.load(path, allow_code=False).predict(FEW) == estimator.predict(FEW)).all()


def test_a_tree_that_points_outside_itself_is_refused(tmp_path: Path, monkeypatch) -> None:
    forest = RandomForestClassifier(2).fit(FEW, CLASSES)
    forest.estimators_[1].tree_.children_left[0] = 10_000
    skops.io.dump(forest, tmp_path / "model.skops")
    with pytest.raises(LoadFailed, match="outside"):
        skops_file.load(tmp_path / "model.skops", allow_code=False)


@pytest.mark.parametrize(("field", "value"), [("left", 0), ("right", 60_000), ("feature_idx", 4)])
def test_a_boosted_tree_that_points_outside_itself_is_refused(tmp_path: Path, field: str, value: int) -> None:
    boosted = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2).fit(FEW, CLASSES)
    boosted._predictors[0][0].nodes[field][0] = value
    skops.io.dump(boosted, tmp_path / "model.skops")
    with pytest.raises(LoadFailed, match="outside"):
        skops_file.load(tmp_path / "model.skops", allow_code=False)


def write(folder: Path, flavors: dict[str, Any], **files: bytes) -> Path:
    models.write_mlmodel(folder, flavors, [], [])
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


SKOPS = {"pickled_model": "model.skops", "serialization_format": "skops"}


def skops_of(module: str) -> bytes:
    """A skops file that names a class of the module."""
    from io import BytesIO

    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        node = {"__class__": "Model", "__module__": module, "__loader__": "ObjectNode", "content": {}}
        archive.writestr("schema.json", json.dumps({**node, "protocol": 2}))
    return file.getvalue()


REFUSED: list[tuple[str, dict[str, Any], dict[str, bytes], type[ModelProblem], str]] = [
    ("no flavour served", {"spacy": {}}, {}, UnsupportedModel, "spacy"),
    ("a pickle", {"sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}},
     {"model__pkl": b"x"}, UnsupportedModel, "ALLOW_CODE"),
    ("code paths", {"sklearn": {**SKOPS, "code": "code"}}, {"model__skops": b"x"}, UnsupportedModel, "code_paths"),
    ("a foreign package", {"sklearn": SKOPS}, {"model__skops": skops_of("lightgbm.sklearn")},
     MissingPackages, "lightgbm"),
    ("a foreign module that is here", {"sklearn": SKOPS}, {"model__skops": skops_of("subprocess")},
     UnsupportedModel, "subprocess"),
    ("no skops at all", {"sklearn": SKOPS}, {"model__skops": b"hello"}, ArtifactDamaged, "skops"),
    ("an empty file", {"onnx": {"data": "model.onnx"}}, {"model__onnx": b""}, ArtifactDamaged, "empty"),
    ("a missing file", {"onnx": {"data": "model.onnx"}}, {}, ArtifactDamaged, "missing"),
    ("a file outside", {"onnx": {"data": "../model.onnx"}}, {}, ArtifactDamaged, "outside"),
    ("no flavours", {}, {}, UnsupportedModel, "flavours"),
]  # fmt: skip


@pytest.mark.parametrize(("flavors", "files", "kind", "part"), [case[1:] for case in REFUSED],
                         ids=[case[0] for case in REFUSED])  # fmt: skip
def test_what_cannot_be_served_is_refused_with_a_reason(
    tmp_path: Path, flavors: dict[str, Any], files: dict[str, bytes], kind: type[ModelProblem], part: str
) -> None:
    folder = write(tmp_path / "model", flavors, **files)
    with pytest.raises(kind, match=part):
        requirements.check(mlmodel.read(folder), "auto", allow_code=False)


@pytest.mark.parametrize("text", ["", "- a list", "flavors: [", "flavors: 5", "\x00"])
def test_a_damaged_mlmodel_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(ArtifactDamaged, match="MLmodel"):
        mlmodel.read(tmp_path)


@pytest.mark.parametrize(("jobs", "computes"), [(None, True), (1, True), (2, False)])
def test_an_estimator_with_threads_of_its_own_is_not_timed_by_its_callers(
    tmp_path: Path, jobs: int | None, computes: bool
) -> None:
    estimator = make_pipeline(StandardScaler(), RandomForestClassifier(3, n_jobs=jobs)).fit(FEW, CLASSES)
    folder = models.sklearn_folder(tmp_path / "model", estimator)
    assert load(mlmodel.read(folder), "auto", "cpu", allow_code=False).only_computes is computes


def test_requirements_that_the_runtime_does_not_need_are_not_demanded(onnx_model: Path, sklearn_model: Path) -> None:
    for folder, flavor in ((onnx_model, "onnx"), (sklearn_model, "sklearn")):
        (folder / "requirements.txt").write_text("mlflow==3.17.2\nno-such-package==1.0\n")
        assert requirements.check(mlmodel.read(folder), "auto", allow_code=False) == flavor


def test_a_runtime_that_is_not_in_the_image_is_named(onnx_model: Path, monkeypatch) -> None:
    monkeypatch.setattr("modelramp_server.runtime.choice.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackages, match=r"needs onnxruntime, not in this image: pip install .modelramp\[onnx\]"):
        requirements.check(mlmodel.read(onnx_model), "auto", allow_code=False)


def test_the_runtime_insisted_on(onnx_model: Path) -> None:
    with pytest.raises(UnsupportedModel, match="sklearn"):
        requirements.check(mlmodel.read(onnx_model), "sklearn", allow_code=False)


def test_a_pickle_is_loaded_where_code_is_allowed(tmp_path: Path) -> None:
    import pickle

    flavor = {"sklearn": {"pickled_model": "model.pkl", "serialization_format": "pickle"}}
    folder = write(tmp_path / "model", flavor, model__pkl=pickle.dumps(LogisticRegression().fit(FEW, CLASSES)))
    runtime = load(mlmodel.read(folder), "auto", "cpu", allow_code=True)
    assert runtime.inputs[0].shape == (-1, 4)
    with pytest.raises(UnsupportedModel):
        load(mlmodel.read(folder), "auto", "cpu", allow_code=False)


def test_columns_of_text_and_numbers_are_inputs_of_their_own(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"colour": ["red", "blue"] * 30, "size": np.arange(60.0)})
    encode = ColumnTransformer([("colour", OneHotEncoder(), ["colour"])], remainder="passthrough")
    pipeline = make_pipeline(encode, LogisticRegression(max_iter=1000)).fit(frame, ["a", "b"] * 30)
    columns = [{"type": "string", "name": "colour"}, {"type": "double", "name": "size"}]
    folder = models.write_mlmodel(tmp_path / "model", {"sklearn": SKOPS}, columns, [])
    skops.io.dump(pipeline, folder / "model.skops")
    runtime = load(mlmodel.read(folder), "auto", "cpu", allow_code=False)
    assert [(spec.name, spec.datatype) for spec in runtime.inputs] == [("colour", "BYTES"), ("size", "FP64")]
    outputs = runtime.predict({"colour": np.array(["red", "blue"], object), "size": np.array([1.0, 2.0])})
    assert outputs["predict"].tolist() == ["a", "b"]


@pytest.mark.parametrize(("kind", "part"), [("double", "takes its columns by name"), ("string", "text columns")])
def test_what_needs_pandas_says_how_to_get_it(tmp_path: Path, monkeypatch, kind: str, part: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(FEW, columns=list("abcd"))
    scale = ColumnTransformer([("scale", StandardScaler(), ["a", "b"])])
    columns = [{"type": kind, "name": name} for name in "abcd"]
    folder = models.write_mlmodel(tmp_path / "model", {"sklearn": SKOPS}, columns, [])
    skops.io.dump(make_pipeline(scale, LogisticRegression()).fit(frame, CLASSES), folder / "model.skops")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pandas" else find(name))
    with pytest.raises(MissingPackages, match=rf"{part}.* pandas, .*pip install 'modelramp\[pyfunc\]'"):
        warm_up(load(mlmodel.read(folder), "auto", "cpu", allow_code=False), None, 1, 4)
    if kind == "string":
        with pytest.raises(MissingPackages, match=r"text columns.* pip install 'modelramp\[pyfunc\]'"):
            requirements.check(mlmodel.read(folder), "auto", allow_code=False)


def test_a_model_fitted_on_a_frame_takes_arrays_without_a_warning(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    estimator = LogisticRegression().fit(pandas.DataFrame(FEW, columns=list("abcd")), CLASSES)
    inputs = [models.tensor("", "float64", [-1, 4])]
    folder = models.write_mlmodel(tmp_path / "model", {"sklearn": SKOPS}, inputs, [])
    skops.io.dump(estimator, folder / "model.skops")
    runtime = load(mlmodel.read(folder), "auto", "cpu", allow_code=False)
    assert len(runtime.predict({"input": FEW})["predict"]) == len(FEW)  # warnings are errors here


def test_a_classifiers_map_of_probabilities_becomes_columns(tmp_path: Path, estimator: Any) -> None:
    from skl2onnx import to_onnx

    folder = models.onnx_folder(tmp_path / "model", to_onnx(estimator, np.zeros((1, 64), np.float32), target_opset=18))
    runtime = load(mlmodel.read(folder), "auto", "cpu", allow_code=False)
    warm = warm_up(runtime, None, 1, 4)
    images = models.digits()[0][:3].astype(np.float32)
    probabilities = runtime.predict({"X": images})["output_probability"]
    assert warm.rows == 4 and probabilities.shape == (3, 10)
    assert np.allclose(probabilities, estimator.predict_proba(images), atol=1e-3)
    assert [spec.name for spec in warm.outputs] == ["output_label", "output_probability"]
