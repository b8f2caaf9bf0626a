"""The inference server, and its models in Python: `load_model`. Importing this costs nothing; what it names does.

Libraries that tell their makers of every use, unless told not to before they begin, are told here.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelramp_server.runtime.base import ModelProblem
    from modelramp_server.scoring.model import Model, load_model

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Model", "ModelProblem", "load_model"]

_FOUND_IN = {"Model": "scoring.model", "ModelProblem": "runtime.base", "load_model": "scoring.model"}


def __getattr__(name: str) -> Any:
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FOUND_IN[name]}"), name)
