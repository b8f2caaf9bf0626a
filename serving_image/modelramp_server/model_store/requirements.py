"""Can this image run the model? Asked before anything is loaded, so that the answer names what is missing.

A model's requirements.txt lists what its training environment had, pytest included. What counts here is what the
runtime chosen needs: for ONNX that is onnxruntime and nothing else. A model that runs code of its own needs them all.
"""

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelramp_server.model_store import environment
from modelramp_server.runtime.archive import document
from modelramp_server.runtime.base import MissingPackages, UnsupportedModel
from modelramp_server.runtime.choice import choose, packages
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.runtime.policy import check_code
from modelramp_server.runtime.sklearn import PANDAS
from modelramp_server.settings import RuntimeName

_REMEDY = "make an image that has it: docs/server.md, 'A model that needs more than the image has'"
_KNOWN = {"sklearn", "numpy", "scipy", "builtins", "collections", "datetime", "operator", "functools", "random"}

log = logging.getLogger(__name__)


def check(model: MLmodel, insist: RuntimeName, allow_code: bool) -> str:
    """The flavour that will serve the model in this image.

    Raises:
        UnsupportedModel: no runtime for it, or code in it.
        MissingPackages: with the packages' names.
        ArtifactDamaged: a file is not what its name says.
    """
    flavor = choose(model, insist)
    check_code(model, flavor, allow_code)
    _compare(model, flavor)
    if flavor == "sklearn":
        _check_sklearn(model)
    return flavor


def _compare(model: MLmodel, flavor: str) -> None:
    """Refuse what is missing for sure; tell of what may matter: other versions, and what a pickle may import."""
    runs_code = flavor == "python_function" or bool(model.flavors[flavor].get("code"))
    pickle = flavor == "sklearn" and _is_pickle(model)
    listed = environment.required(model.root)
    if not (runs_code or pickle):
        listed = [one for one in listed if one.name in packages(flavor)]
    missing = sorted(str(one) for one in listed if environment.installed(one.name) is None)
    if missing and runs_code:
        raise MissingPackages(f"the model needs {', '.join(missing)}, not in this image; {_REMEDY}")
    if missing:
        log.warning("the model lists %s, not in this image; if it fails for lack of them, %s", missing, _REMEDY)
    if others := environment.other_versions(listed):
        log.warning("the model was made with %s; if it answers differently, %s", ", ".join(others), _REMEDY)
    python = str(model.flavors.get("python_function", {}).get("python_version", ""))
    if (runs_code or pickle) and python and not environment.same_python(python):
        log.warning("the model was made with Python %s, and this is %s; %s", python, environment.PYTHON, _REMEDY)


def _check_sklearn(model: MLmodel) -> None:
    text_columns = [column.name for column in model.signature.columns if column.datatype == "BYTES"]
    if text_columns and importlib.util.find_spec("pandas") is None:
        raise MissingPackages(f"the model's text columns {text_columns} need {PANDAS}")
    if not _is_pickle(model):
        _check_modules(model.file("sklearn", "pickled_model", "model.pkl"))


def _is_pickle(model: MLmodel) -> bool:
    path = model.file("sklearn", "pickled_model", "model.pkl")
    return path.suffix != ".skops" and model.flavors["sklearn"].get("serialization_format") != "skops"


def _check_modules(path: Path) -> None:
    foreign = {name.split(".")[0] for name in _modules(document(path, "schema.json", "skops"))} - _KNOWN
    missing = sorted(name for name in foreign if importlib.util.find_spec(name) is None)
    if missing:
        raise MissingPackages(f"{path.name} holds objects of {', '.join(missing)}, not in this image")
    if foreign:
        raise UnsupportedModel(
            f"{path.name} holds objects of {', '.join(sorted(foreign))}; only those of scikit-learn, numpy and "
            "scipy are loaded. Log the model as ONNX"
        )


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
