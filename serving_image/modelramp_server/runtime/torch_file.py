"""What MLflow's pytorch flavour left in its folder, told apart without torch and without unpickling anything."""

import pickletools
import zipfile
from pathlib import Path
from typing import Literal

from modelramp_server.runtime.base import ArtifactDamaged, UnsupportedModel

PT2 = "model.pt2"
PTH = "model.pth"

Kind = Literal["pt2", "torchscript", "pickle"]

# What tensors and their containers need to be rebuilt; a pickled module needs its classes too.
_WEIGHTS = frozenset({"collections", "torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter"})
_WEIGHT_CLASSES = ("_rebuild", "OrderedDict", "Storage", "Size", "Parameter")
_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE")


def kind(folder: Path) -> Kind:
    """The format of the model in a `data` folder.

    Raises:
        ArtifactDamaged: neither file is there.
        UnsupportedModel: weights without a program.
    """
    if (folder / PT2).is_file():
        return "pt2"
    path = folder / PTH
    if not path.is_file():
        raise ArtifactDamaged(f"{folder.name} has neither {PT2} nor {PTH}; the artifact is incomplete")
    if not zipfile.is_zipfile(path):
        return "pickle"
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            return "torchscript"
        if _weights_only(archive):
            raise UnsupportedModel(
                f"{path.name} holds weights only (a state dict) and no program; log the module with "
                "serialization_format='pt2', or as TorchScript (torch.jit.script)"
            )
    return "pickle"


def _weights_only(archive: zipfile.ZipFile) -> bool:
    """Whether the pickle in the archive names nothing but tensors and their containers."""
    pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
    if len(pickles) != 1:
        return False
    try:
        names = list(_globals(archive.read(pickles[0])))
    except ValueError:
        return False
    return all(module in _WEIGHTS and any(part in name for part in _WEIGHT_CLASSES) for module, name in names)


def _globals(pickled: bytes) -> list[tuple[str, str]]:
    """The (module, name) pairs that a pickle imports."""
    found, strings = [], ["", ""]
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            found.append((module, name))
        elif opcode.name == "STACK_GLOBAL":
            found.append((strings[-2], strings[-1]))
        elif opcode.name in _STRINGS:
            strings.append(str(argument))
    return found
