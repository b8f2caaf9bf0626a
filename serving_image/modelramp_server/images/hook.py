"""A Python file logged beside the model: `preprocess`, `postprocess`, or both. Code of the model, so only where
ALLOW_CODE is set (runtime/policy.py)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelramp_server.images import KEY
from modelramp_server.protocol.errors import ModelFailed
from modelramp_server.protocol.tensors import DTYPES, Array, TensorSpec
from modelramp_server.runtime.base import ArtifactDamaged, LoadFailed, first_line

Function = Callable[[Any], Any]
_FUNCTIONS = ("preprocess", "postprocess")


def path_of(root: Path, name: str) -> Path:
    """The hook's file.

    Raises:
        ArtifactDamaged: it is missing, or outside the model's folder.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
        raise ArtifactDamaged(f"MLmodel: metadata.{KEY}.hook names {name}, which is no file of the model's folder")
    return path


class Hook:
    """The functions of the file. Called from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Raises LoadFailed: the file can't be imported, or has neither function."""
        spec = importlib.util.spec_from_file_location("modelramp_image_hook", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise LoadFailed(f"{path.name} can't be imported: {type(error).__name__}: {first_line(error)}") from error
        found = {name: function for name in _FUNCTIONS if callable(function := getattr(module, name, None))}
        if not found:
            raise LoadFailed(f"{path.name} has neither of the functions {' and '.join(_FUNCTIONS)}")
        self.preprocess: Function | None = found.get("preprocess")
        self.postprocess: Function | None = found.get("postprocess")


def prepared(function: Function, pixels: Array, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """What `preprocess` makes of an upright picture, uint8 of the shape (height, width, 3): every input, one row.

    Raises:
        ModelFailed: it raised, or its arrays are not the model's inputs.
    """
    arrays = _arrays(_called(function, pixels, "preprocess"), "preprocess")
    if arrays.keys() != {spec.name for spec in inputs}:
        wanted = sorted(spec.name for spec in inputs)
        raise ModelFailed(f"the model's preprocess gave {sorted(arrays)}; the model's inputs are {wanted}")
    return {spec.name: _fitting(arrays[spec.name], spec) for spec in inputs}


def found(function: Function, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """What `postprocess` makes of some rows' outputs: arrays, the rows first.

    Raises:
        ModelFailed: it raised, or its arrays are of other rows.
    """
    arrays = _arrays(_called(function, dict(outputs), "postprocess"), "postprocess")
    rows = {len(array) if array.ndim else None for array in arrays.values()}
    if rows != {len(next(iter(outputs.values())))}:
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        raise ModelFailed(f"the model's postprocess gave arrays of shapes {shapes}; all need the outputs' rows")
    return arrays


def _called(function: Function, argument: Any, name: str) -> Any:
    try:
        return function(argument)
    except (Exception, SystemExit) as error:
        raise ModelFailed(f"the model's {name} failed: {type(error).__name__}: {first_line(error)}") from error


def _arrays(result: Any, name: str) -> dict[str, Array]:
    if not isinstance(result, Mapping) or not result:
        raise ModelFailed(f"the model's {name} gave {type(result).__name__}; it must give a dict of arrays")
    try:
        return {str(key): np.asarray(value) for key, value in result.items()}
    except ValueError as error:
        raise ModelFailed(f"the model's {name} gave what is no array: {error}") from None


def _fitting(array: Array, spec: TensorSpec) -> Array:
    fits = array.ndim == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or array.shape[:1] != (1,):
        raise ModelFailed(
            f"the model's preprocess gave {spec.name!r} of shape {list(array.shape)}; one row of {list(spec.shape)} "
            "is wanted"
        )
    return array.astype(DTYPES[spec.datatype], copy=False)
