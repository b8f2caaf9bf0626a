"""Loading skops files: against an allowlist of this server's own, and with the content of trees checked.

skops trusts scikit-learn's public estimators, numpy and scipy. Trees it leaves out, for scikit-learn follows their
node numbers without looking: a crafted file could crash the process. Here they are loaded, and every node number is
checked before the first forward. MLflow's own list (`skops_trusted_types`) comes with the artifact: never used.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from modelramp_server.runtime.base import LoadFailed, UnsupportedModel

_PLAIN = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
)
_CHECKED = (
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
_LEAF = -1


def load(path: Path, allow_code: bool) -> Any:
    """The estimator in a skops file.

    Raises:
        UnsupportedModel: types outside the allowlist.
        LoadFailed: the file can't be read, or a tree's nodes point outside it.
    """
    try:
        trusted = skops.io.get_untrusted_types(file=path) if allow_code else [*_PLAIN, *_CHECKED]
        estimator = skops.io.load(path, trusted=trusted)
    except UntrustedTypesFoundException as error:
        found = str(error).splitlines()[0]
        raise UnsupportedModel(
            f"{path.name}: {found} Only scikit-learn, numpy and scipy are loaded; log the model as ONNX, or allow "
            "it with ALLOW_CODE=true"
        ) from None
    except Exception as error:
        raise LoadFailed(f"skops can't load {path.name}: {str(error)[:300]}") from error
    for owner, tree in _trees(estimator, None, set()):
        if not _sound(owner, tree):
            raise LoadFailed(f"{path.name} holds a tree whose nodes point outside it; the file is damaged")
    return estimator


def _trees(item: Any, owner: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """Every tree in an object, with the estimator that holds it."""
    if id(item) in seen or isinstance(item, str | bytes | int | float | bool | type(None)):
        return
    seen.add(id(item))
    kind = f"{type(item).__module__}.{type(item).__qualname__}"
    if kind in _CHECKED:
        yield owner, item
    elif isinstance(item, dict):
        for value in item.values():
            yield from _trees(value, owner, seen)
    elif isinstance(item, list | tuple | set) or (isinstance(item, np.ndarray) and item.dtype == object):
        for value in item.ravel() if isinstance(item, np.ndarray) else item:
            yield from _trees(value, owner, seen)
    elif hasattr(item, "__dict__"):
        holder = item if "n_features_in_" in vars(item) else owner
        yield from _trees(vars(item), holder, seen)


def _sound(owner: Any, tree: Any) -> bool:
    features = int(getattr(owner, "n_features_in_", 0))
    if type(tree).__name__ == "TreePredictor":
        nodes = tree.nodes
        leaf = nodes["is_leaf"] != 0
        bitsets = nodes["bitset_idx"][(nodes["is_categorical"] != 0) & ~leaf]
        fits = bool((bitsets < len(tree.raw_left_cat_bitsets)).all())
        return fits and _points_inside(nodes["left"], nodes["right"], nodes["feature_idx"], leaf, features)
    left, right, leaf = tree.children_left, tree.children_right, tree.children_left == _LEAF
    return int(tree.n_features) == features and _points_inside(left, right, tree.feature, leaf, features)


def _points_inside(left: Any, right: Any, feature: Any, leaf: Any, features: int) -> bool:
    """Children come after their parent (so there are no circles) and exist; features exist."""
    inner = np.flatnonzero(~leaf)
    count = len(leaf)
    for children in (left[inner].astype(np.int64), right[inner].astype(np.int64)):
        if ((children <= inner) | (children >= count)).any():
            return False
    used = feature[inner].astype(np.int64)
    return count > 0 and not ((used < 0) | (used >= features)).any()
