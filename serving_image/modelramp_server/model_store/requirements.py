"""Can this image run the model? Asked before anything is loaded, so that the answer names what is missing.

A model's requirements.txt lists what its training environment had, pytest included. What counts here is what the
runtime chosen needs: for ONNX that is onnxruntime and nothing else.
"""

import importlib.util
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelramp_server.runtime.base import ArtifactDamaged, MissingPackages, UnsupportedModel
from modelramp_server.runtime.choice import choose
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.runtime.policy import check_code
from modelramp_server.settings import RuntimeName

_KNOWN = {"sklearn", "numpy", "scipy", "builtins", "collections", "datetime", "operator", "functools", "random"}


def check(model: MLmodel, insist: RuntimeName, allow_code: bool) -> str:
    """The flavour that will serve the model in this image.

    Raises:
        UnsupportedModel: no runtime for it, or code in it.
        MissingPackages: with the packages' names.
        ArtifactDamaged: a file is not what its name says.
    """
    flavor = choose(model, insist)
    check_code(model, flavor, allow_code)
    if flavor == "sklearn":
        _check_sklearn(model)
    return flavor


def _check_sklearn(model: MLmodel) -> None:
    text_columns = [column.name for column in model.signature.columns if column.datatype == "BYTES"]
    if text_columns and importlib.util.find_spec("pandas") is None:
        raise MissingPackages(f"the model's text columns {text_columns} need pandas, not in this image")
    path = model.file("sklearn", "pickled_model", "model.pkl")
    if path.suffix == ".skops" or model.flavors["sklearn"].get("serialization_format") == "skops":
        _check_modules(path)


def _check_modules(path: Path) -> None:
    foreign = {name.split(".")[0] for name in _modules(_schema(path))} - _KNOWN
    missing = sorted(name for name in foreign if importlib.util.find_spec(name) is None)
    if missing:
        raise MissingPackages(f"{path.name} holds objects of {', '.join(missing)}, not in this image")
    if foreign:
        raise UnsupportedModel(
            f"{path.name} holds objects of {', '.join(sorted(foreign))}; only those of scikit-learn, numpy and "
            "scipy are loaded. Log the model as ONNX"
        )


def _schema(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("schema.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtifactDamaged(f"{path.name} is no skops file: {error}") from None


def _modules(node: Any) -> Iterator[str]:
    todo = [node]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            if isinstance(item.get("__module__"), str):
                yield item["__module__"]
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
