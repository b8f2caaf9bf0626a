"""The one policy on code in models: what is found is named, with the way to allow it, before anything is loaded."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelramp_server.model_store import requirements
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import ArtifactDamaged, MissingPackages, UnsupportedModel
from modelramp_server.runtime.policy import check_code
from tests.server import models

LAYER = {"module": "keras.layers", "class_name": "Dense", "config": {}, "registered_name": None}


def keras_file(*layers: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", json.dumps({**LAYER, "class_name": "Sequential", "config": {"layers": layers}}))
    return file.getvalue()


def torch_file(*members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(f"model/{member}", b"\x80\x02cos\nsystem\n.")
    return file.getvalue()


KERAS = {"keras": {"data": "data"}}
PYTORCH = {"pytorch": {"model_data": "data"}}
PYFUNC = {"loader_module": "mlflow.pyfunc.model"}
# What it is -> (flavours, files, what the refusal names).
CODE: dict[str, tuple[dict[str, Any], dict[str, bytes], str]] = {
    "a Keras Lambda": (
        KERAS,
        {"data/model.keras": keras_file(LAYER, {**LAYER, "class_name": "Lambda"})},
        "model.keras has a Lambda",
    ),
    "a pickled function in a layer": (
        KERAS,
        {"data/model.keras": keras_file({**LAYER, "config": {"activation": {"class_name": "__lambda__"}}})},
        "model.keras has a lambda",
    ),
    "a SavedModel inside": (
        KERAS,
        {"data/model.keras": keras_file({**LAYER, "class_name": "TFSMLayer"})},
        "TFSMLayer",
    ),
    "a class of another module": (
        KERAS,
        {"data/model.keras": keras_file({**LAYER, "module": "os", "class_name": "system"})},
        "has system, which is not Keras's own",
    ),
    "a builtin": (
        KERAS,
        {"data/model.keras": keras_file({**LAYER, "module": "builtins", "class_name": "exec"})},
        "has exec",
    ),
    "a registered class": (
        KERAS,
        {"data/model.keras": keras_file({**LAYER, "module": None, "registered_name": "mine>Layer"})},
        "mine>Layer",
    ),
    "a pickled module": (PYTORCH, {"data/model.pth": torch_file("data.pkl")}, "model.pth is a pickled module"),
    "an old pickled module": (PYTORCH, {"data/model.pth": b"\x80\x02"}, "model.pth is a pickled module"),
    "code beside a script": (
        {"pytorch": {"model_data": "data", "code": "code"}},
        {"data/model.pth": torch_file("constants.pkl")},
        "code_paths",
    ),
    "a pickled pyfunc": (
        {"python_function": {**PYFUNC, "python_model": "python_model.pkl"}},
        {},
        r"the pyfunc is a pickle \(python_model.pkl\)",
    ),
    "a model from code": (
        {"python_function": {**PYFUNC, "model_code_path": "/home/me/model.py"}},
        {},
        r"Python code \(model.py\)",
    ),
    "a loader": ({"python_function": {"loader_module": "my.loader"}}, {}, "the Python module my.loader"),
}


def write(folder: Path, flavors: dict[str, Any], files: dict[str, bytes]) -> mlmodel.MLmodel:
    models.write_mlmodel(folder, flavors, [], [])
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return mlmodel.read(folder)


@pytest.mark.parametrize("case", CODE)
def test_code_is_refused_and_named_unless_it_is_allowed(tmp_path: Path, case: str) -> None:
    flavors, files, part = CODE[case]
    model, flavor = write(tmp_path, flavors, files), next(iter(flavors))
    with pytest.raises(UnsupportedModel, match=f"{part}.* ALLOW_CODE=true"):
        check_code(model, flavor, allow_code=False)
    check_code(model, flavor, allow_code=True)


PLAIN: dict[str, tuple[dict[str, Any], dict[str, bytes]]] = {
    "Keras's own layers": (KERAS, {"data/model.keras": keras_file(LAYER, LAYER)}),
    "a function of Keras": (
        KERAS,
        {"data/model.keras": keras_file({"module": "builtins", "class_name": "function", "config": "relu"})},
    ),
    "a TorchScript module": (PYTORCH, {"data/model.pth": torch_file("constants.pkl", "code/__torch__.py", "data.pkl")}),
    "an exported program": (PYTORCH, {"data/model.pt2": b"looked into when it is loaded"}),
    "ONNX": ({"onnx": {"data": "model.onnx"}}, {"model.onnx": b"graph"}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_what_brings_no_code_needs_no_leave(tmp_path: Path, case: str) -> None:
    flavors, files = PLAIN[case]
    check_code(write(tmp_path, flavors, files), next(iter(flavors)), allow_code=False)


BROKEN: dict[str, tuple[dict[str, Any], dict[str, bytes], type[Exception], str]] = {
    "no Keras file": (KERAS, {"data/other": b"x"}, ArtifactDamaged, "model.keras is missing"),
    "no zip": (KERAS, {"data/model.keras": b"x"}, ArtifactDamaged, "no Keras 3 file"),
    "a TensorFlow export": (
        {"keras": {"data": "data", "save_exported_model": True}},
        {"data/x": b""},
        UnsupportedModel,
        "SavedModel",
    ),
    "no torch file": (PYTORCH, {"data/other": b"x"}, ArtifactDamaged, "neither model.pt2 nor model.pth"),
    "a pyfunc without loader": ({"python_function": {}}, {}, ArtifactDamaged, "loader_module"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_not_called_code(tmp_path: Path, case: str) -> None:
    flavors, files, kind, part = BROKEN[case]
    with pytest.raises(kind, match=part):
        check_code(write(tmp_path, flavors, files), next(iter(flavors)), allow_code=False)


def test_a_pyfunc_of_a_library_that_is_not_here_names_it(tmp_path: Path) -> None:
    flavors = {"python_function": {"loader_module": "mlflow.nosuch"}, "nosuch": {}}
    with pytest.raises(MissingPackages, match="needs nosuch, not in this image"):
        requirements.check(write(tmp_path, flavors, {}), "auto", allow_code=True)


def test_pyfunc_is_no_way_around_a_native_flavour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flavors = {"python_function": {"loader_module": "mlflow.onnx"}, "onnx": {"data": "model.onnx"}}
    model = write(tmp_path, flavors, {"model.onnx": b"graph"})
    assert requirements.check(model, "auto", allow_code=True) == "onnx"
    assert requirements.check(model, "pyfunc", allow_code=True) == "python_function"
    monkeypatch.setattr(
        "modelramp_server.runtime.choice.importlib.util.find_spec", lambda name: None if "onnx" in name else object()
    )
    with pytest.raises(MissingPackages, match="onnxruntime"):
        requirements.check(model, "auto", allow_code=True)
