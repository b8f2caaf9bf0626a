"""What stands in a `.keras` file: its configuration is JSON, and names every class and function to be made from it.

Keras's own safe_mode refuses Lambda layers; it has let other names through before. Here only those of Keras pass.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelramp_server.runtime.archive import document
from modelramp_server.runtime.base import ArtifactDamaged, UnsupportedModel
from modelramp_server.runtime.mlmodel import MLmodel

_CODE_CLASSES = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer")


def path(model: MLmodel) -> Path:
    """The `.keras` file of a model.

    Raises:
        UnsupportedModel: a TensorFlow SavedModel.
        ArtifactDamaged: the file is not there.
    """
    if model.flavors["keras"].get("save_exported_model"):
        raise UnsupportedModel(
            "the keras model is a TensorFlow SavedModel, which is not served; log it with save_exported_model=False"
        )
    file = model.file("keras", "data", "data") / "model.keras"
    if not file.is_file():
        raise ArtifactDamaged(f"{file.parent.name}/{file.name} is missing; the artifact is incomplete")
    return file


def code(file: Path) -> Iterator[str]:
    """What in the file would run code of the model's own when it is loaded.

    Raises:
        ArtifactDamaged: no `.keras` file.
    """
    todo: list[Any] = [document(file, "config.json", "Keras 3")]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, dict):
            todo.extend(item.values())
            name = str(item.get("class_name") or "")
            if name in _CODE_CLASSES or name == "__lambda__":
                yield f"a {name.strip('_')}"
            elif name and _foreign(item, name):
                yield f"{item.get('registered_name') or name}, which is not Keras's own"


def _foreign(item: dict[str, Any], name: str) -> bool:
    package, _, registered = str(item.get("registered_name") or "").partition(">")
    if registered and package != "keras":
        return True
    module = item.get("module")
    if module == "builtins":
        return name != "function"
    return isinstance(module, str) and module.split(".")[0] != "keras"
