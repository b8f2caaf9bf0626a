"""Which runtime serves a model: native flavours first, in the order in which they serve fastest."""

import importlib.util
from pathlib import Path

from modelramp_server.runtime.base import LoadFailed, MissingPackages, ModelProblem, Runtime, UnsupportedModel
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.runtime.policy import refuse_code
from modelramp_server.settings import Device, RuntimeName

# Flavour in MLmodel -> (runtimes that serve it, the modules they import, the packages to install for them).
_FLAVORS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "onnx": (("onnx",), {"onnxruntime": "onnxruntime"}),
    "pytorch": (("torch", "torchscript"), {"torch": "torch"}),
    "sklearn": (("sklearn",), {"sklearn": "scikit-learn", "skops": "skops"}),
}


def choose(model: MLmodel, insist: RuntimeName) -> str:
    """The flavour to serve.

    Raises:
        UnsupportedModel: no flavour that any runtime serves, or not the runtime insisted on, or code.
        MissingPackages: the flavour is served, and its packages are not in this image.
    """
    found = [flavor for flavor in _FLAVORS if flavor in model.flavors]
    served = [flavor for flavor in found if insist == "auto" or insist in _FLAVORS[flavor][0]]
    if not served:
        wish = "" if insist == "auto" else f" by the runtime insisted on ({insist})"
        raise UnsupportedModel(
            f"the model has the flavours {sorted(model.flavors)}, none of which is served{wish}; "
            f"log it as one of {sorted(_FLAVORS)}"
        )
    for flavor in served:
        if not missing_packages(flavor):
            return flavor
    missing = missing_packages(served[0])
    raise MissingPackages(f"the {served[0]} flavour needs {', '.join(missing)}, not in this image")


def packages(flavor: str) -> set[str]:
    """Packages that the flavour's runtime needs."""
    return set(_FLAVORS[flavor][1].values())


def missing_packages(flavor: str) -> list[str]:
    """Packages that the flavour's runtime needs and this image lacks."""
    modules = _FLAVORS[flavor][1]
    return [package for module, package in modules.items() if importlib.util.find_spec(module) is None]


def check_code(model: MLmodel, flavor: str, allow_code: bool) -> None:
    """Refuse code that comes with the model, before anything is loaded.

    Raises:
        UnsupportedModel: pickles or code paths without ALLOW_CODE.
    """
    if flavor == "sklearn":
        path = model.file("sklearn", "pickled_model", "model.pkl")
        if model.flavors["sklearn"].get("serialization_format") != "skops" and path.suffix != ".skops":
            refuse_code(f"{path.name} is a pickle", "log it with serialization_format='skops'", allow_code)
    if flavor != "onnx" and model.flavors[flavor].get("code"):
        refuse_code("the model brings code of its own (code_paths)", "log it without", allow_code)


def load(model: MLmodel, insist: RuntimeName, device: Device, allow_code: bool) -> Runtime:
    """Load the model on the runtime that fits.

    Raises:
        ModelProblem: with the reason of docs/contract.md.
    """
    flavor = choose(model, insist)
    check_code(model, flavor, allow_code)
    try:
        return _build(flavor, model, device, allow_code)
    except ModelProblem:
        raise
    except Exception as error:
        where = Path(model.root).name
        raise LoadFailed(f"{where} can't be loaded by {flavor}: {str(error)[:500]}") from error


def _build(flavor: str, model: MLmodel, device: Device, allow_code: bool) -> Runtime:
    if flavor == "onnx":
        from modelramp_server.runtime.onnx import OnnxRuntime

        return OnnxRuntime(model, device)
    if flavor == "pytorch":
        from modelramp_server.runtime.torch import TorchRuntime

        return TorchRuntime(model, device, allow_code)
    from modelramp_server.runtime.sklearn import SklearnRuntime

    return SklearnRuntime(model, allow_code)
