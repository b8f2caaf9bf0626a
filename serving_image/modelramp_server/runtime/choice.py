"""Which runtime serves a model: native flavours first, in the order in which they serve fastest; pyfunc last."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from modelramp_server.runtime.base import LoadFailed, MissingPackages, ModelProblem, Runtime, UnsupportedModel
from modelramp_server.runtime.mlmodel import MLmodel
from modelramp_server.runtime.policy import add_code, check_code
from modelramp_server.settings import Device, RuntimeName

# Flavour in MLmodel -> (runtimes that serve it, the modules they import, the packages to install for them).
_FLAVORS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "onnx": (("onnx",), {"onnxruntime": "onnxruntime"}),
    "pytorch": (("torch", "torchscript"), {"torch": "torch"}),
    "sklearn": (("sklearn",), {"sklearn": "scikit-learn", "skops": "skops"}),
    "keras": (("keras",), {"keras": "keras", "torch": "torch"}),
    "python_function": (("pyfunc",), {"mlflow": "mlflow-skinny", "pandas": "pandas"}),
}
_PYFUNC = "python_function"
# Flavours whose library has another name.
_MODULES = {"pytorch": "torch", "spark": "pyspark"}


def choose(model: MLmodel, insist: RuntimeName) -> str:
    """The flavour to serve. python_function stands beside nearly every other: it is taken where no other is served.

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
    native = [flavor for flavor in served if flavor != _PYFUNC] or served
    for flavor in native:
        if not _missing(model, flavor):
            return flavor
    missing = _missing(model, native[0])
    extra = f": pip install 'modelramp[{_FLAVORS[native[0]][0][0]}]'" if set(missing) <= packages(native[0]) else ""
    raise MissingPackages(f"the {native[0]} flavour needs {', '.join(missing)}, not in this image{extra}")


def packages(flavor: str) -> set[str]:
    """Packages that the flavour's runtime needs."""
    return set(_FLAVORS[flavor][1].values())


def _missing(model: MLmodel, flavor: str) -> list[str]:
    """Packages that the flavour's runtime needs and this image lacks."""
    wanted = dict(_FLAVORS[flavor][1])
    if flavor == _PYFUNC:
        wanted |= dict(_loaders_libraries(model))
    return [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]


def _loaders_libraries(model: MLmodel) -> Iterator[tuple[str, str]]:
    """The libraries that mlflow's own loaders import: a pyfunc of the flavour xgboost needs xgboost."""
    for flavor in model.flavors:
        if model.flavors[_PYFUNC].get("loader_module") == f"mlflow.{flavor}":
            module = _MODULES.get(flavor, flavor)
            yield module, module


def load(model: MLmodel, insist: RuntimeName, device: Device, allow_code: bool) -> Runtime:
    """Load the model on the runtime that fits.

    Raises:
        ModelProblem: with the reason of docs/contract.md.
    """
    flavor = choose(model, insist)
    check_code(model, flavor, allow_code)
    add_code(model, flavor)
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
    if flavor == "sklearn":
        from modelramp_server.runtime.sklearn import SklearnRuntime

        return SklearnRuntime(model, device, allow_code)
    if flavor == "keras":
        from modelramp_server.runtime.keras import KerasRuntime

        return KerasRuntime(model, device, allow_code)
    from modelramp_server.runtime.pyfunc import PyfuncRuntime

    return PyfuncRuntime(model, device)
