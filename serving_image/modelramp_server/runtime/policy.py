"""The one policy on code in models: it runs only where ALLOW_CODE says so, and the refusal says what was found.

Asked before anything is loaded, and without the libraries that would load it. pt2 archives are the exception: only
torch can read them as torch would (pt2_file.py).
"""

import sys
from pathlib import Path
from typing import Any

from modelramp_server.images import loading
from modelramp_server.runtime import keras_file, torch_file
from modelramp_server.runtime.base import ArtifactDamaged, UnsupportedModel
from modelramp_server.runtime.mlmodel import MLmodel


def refuse_code(found: str, remedy: str, allow_code: bool) -> None:
    """Stop unless code is allowed.

    Raises:
        UnsupportedModel: what was found, the remedy, and how to allow it.
    """
    if not allow_code:
        raise UnsupportedModel(
            f"{found}, which runs code when it is loaded; {remedy}, or allow it with ALLOW_CODE=true"
        )


def check_code(model: MLmodel, flavor: str, allow_code: bool) -> None:
    """Refuse code that comes with the model.

    Raises:
        UnsupportedModel: pickles, Python files, Keras Lambdas or a pyfunc without ALLOW_CODE.
        ArtifactDamaged: a file can't be read.
        LoadFailed: what is declared of images is wrong.
    """
    images = loading.declaration(model)
    if images is not None and images.hook:
        refuse_code(f"the model brings a hook for images ({images.hook})", "declare what it does", allow_code)
    if flavor == "onnx":
        return
    if model.flavors[flavor].get("code"):
        refuse_code("the model brings code of its own (code_paths)", "log it without", allow_code)
    _CHECKS[flavor](model, allow_code)


def add_code(model: MLmodel, flavor: str) -> None:
    """Let the model import its own code, once `check_code` has passed."""
    code = model.flavors[flavor].get("code")
    if code:
        sys.path.insert(0, str(model.root / str(code)))


def _check_sklearn(model: MLmodel, allow_code: bool) -> None:
    path = model.file("sklearn", "pickled_model", "model.pkl")
    if model.flavors["sklearn"].get("serialization_format") != "skops" and path.suffix != ".skops":
        refuse_code(f"{path.name} is a pickle", "log it with serialization_format='skops'", allow_code)


def _check_torch(model: MLmodel, allow_code: bool) -> None:
    folder = model.file("pytorch", "model_data", "data")
    if torch_file.kind(folder) == "pickle":
        remedy = "log it with serialization_format='pt2', or a TorchScript module (torch.jit.script)"
        refuse_code("model.pth is a pickled module", remedy, allow_code)


def _check_keras(model: MLmodel, allow_code: bool) -> None:
    path = keras_file.path(model)
    for found in keras_file.code(path):
        refuse_code(f"{path.name} has {found}", "build it of Keras's own layers and functions", allow_code)


def _check_pyfunc(model: MLmodel, allow_code: bool) -> None:
    config = model.flavors["python_function"]
    if not config.get("loader_module"):
        raise ArtifactDamaged("python_function in MLmodel names no loader_module; log the model again")
    remedy = "log it as onnx, pytorch, sklearn or keras, which need no code"
    refuse_code(_pyfunc_code(config), remedy, allow_code)


def _pyfunc_code(config: dict[str, Any]) -> str:
    if config.get("model_code_path"):
        return f"the pyfunc is Python code ({Path(str(config['model_code_path'])).name})"
    if config.get("python_model"):
        return f"the pyfunc is a pickle ({config['python_model']})"
    return f"the pyfunc is loaded by the Python module {config['loader_module']}"


_CHECKS = {
    "sklearn": _check_sklearn,
    "pytorch": _check_torch,
    "keras": _check_keras,
    "python_function": _check_pyfunc,
}
