"""The MLmodel file: what a model says about itself. Read with PyYAML, for importing mlflow takes seconds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from modelramp_server.protocol import params
from modelramp_server.protocol.params import ParamSpec
from modelramp_server.protocol.tensors import DATATYPES, TensorSpec
from modelramp_server.runtime.base import ArtifactDamaged

_COLUMN_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
# Fields of a flavour that name a file or folder of the artifact.
_FILE_FIELDS = {
    "sklearn": ("pickled_model",),
    "onnx": ("data",),
    "pytorch": ("model_data",),
    "keras": ("data",),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a column-based signature."""

    name: str
    datatype: str
    required: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs as the model's author logged them; unnamed tensors have the name ""."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    columns: tuple[Column, ...] = ()
    params: tuple[ParamSpec, ...] = ()

    @property
    def frames(self) -> bool | None:
        """Whether MLflow gives the model frames; None: whatever it is asked with."""
        return bool(self.columns) if self.columns or self.inputs else None


@dataclass(frozen=True, slots=True)
class MLmodel:
    """The parts of an MLmodel file that the server acts on."""

    root: Path
    flavors: dict[str, dict[str, Any]]
    signature: Signature
    example: Path | None
    metadata: Mapping[str, Any]

    def file(self, flavor: str, field: str, default: str) -> Path:
        """The path that a flavour's field names."""
        return self.root / str(self.flavors[flavor].get(field) or default)


def read(root: Path) -> MLmodel:
    """Read `root/MLmodel` and check that the files it names are there.

    Raises:
        ArtifactDamaged: MLmodel or a file it names is missing, empty, unreadable or outside the artifact.
    """
    document = _document(root / "MLmodel")
    flavors = document.get("flavors")
    if not isinstance(flavors, dict) or not all(isinstance(value, dict) for value in flavors.values()):
        raise ArtifactDamaged(f"{root / 'MLmodel'} names no flavors; log the model again")
    for flavor, fields in _FILE_FIELDS.items():
        for field in fields:
            if flavors.get(flavor, {}).get(field):
                _check_file(root, str(flavors[flavor][field]))
    info = document.get("saved_input_example_info") or {}
    example = root / str(info["artifact_path"]) if info.get("type") == "ndarray" else None
    metadata = document.get("metadata")
    return MLmodel(
        root,
        flavors,
        _signature(document.get("signature") or {}),
        example,
        metadata if isinstance(metadata, dict) else {},
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ArtifactDamaged(f"{path} is missing; is this the folder of an MLflow model?") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArtifactDamaged(f"{path} can't be read: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict):
        raise ArtifactDamaged(f"{path} is empty or no mapping; log the model again")
    return document


def _check_file(root: Path, name: str) -> None:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise ArtifactDamaged(f"MLmodel names {name}, which is outside the artifact")
    if not path.exists():
        raise ArtifactDamaged(f"MLmodel names {name}, which is missing; the artifact is incomplete")
    if path.is_file() and path.stat().st_size == 0:
        raise ArtifactDamaged(f"MLmodel names {name}, which is empty; the artifact is damaged")


def _signature(document: dict[str, Any]) -> Signature:
    inputs = _schema(document.get("inputs"))
    outputs = _schema(document.get("outputs"))
    columns = [
        Column(str(entry["name"]), kind, bool(entry.get("required", True)))
        for entry in inputs
        if (kind := _column_kind(entry))
    ]
    return Signature(
        inputs=_tensors(inputs),
        outputs=_tensors(outputs),
        columns=tuple(columns) if columns and len(columns) == len(inputs) else (),
        params=params.read(_schema(document.get("params"))),
    )


def _schema(text: object) -> list[dict[str, Any]]:
    if not isinstance(text, str):
        return []
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactDamaged(f"the signature in MLmodel is not JSON: {error}") from None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _column_kind(entry: dict[str, Any]) -> str | None:
    return _COLUMN_DATATYPES.get(str(entry.get("type"))) if "name" in entry else None


def _tensors(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = []
    for entry in entries:
        if entry.get("type") != "tensor":
            return ()
        details = entry["tensor-spec"]
        specs.append(TensorSpec(str(entry.get("name", "")), _datatype(details["dtype"]), tuple(details["shape"])))
    return tuple(specs)


def _datatype(dtype: str) -> str:
    try:
        return DATATYPES.get(np.dtype(dtype), "BYTES")
    except TypeError:
        return "BYTES"
