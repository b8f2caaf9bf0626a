"""The images of a model that has been loaded: nothing of Pillow is imported for one that declares none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelramp_server.images import KEY
from modelramp_server.protocol.tensors import TensorSpec
from modelramp_server.runtime.base import MissingPackages
from modelramp_server.runtime.mlmodel import MLmodel

if TYPE_CHECKING:
    from modelramp_server.images.declared import ImageMetadata
    from modelramp_server.images.pipeline import ImagePipeline


def declaration(model: MLmodel) -> ImageMetadata | None:
    """What the model's MLmodel file declares; None where it declares nothing.

    Raises:
        LoadFailed: with the field that is wrong.
    """
    if "modelramp" not in model.metadata:
        return None
    from modelramp_server.images import declared

    return declared.read(model.metadata)


def load(model: MLmodel, inputs: Sequence[TensorSpec], max_pixels: int) -> ImagePipeline | None:
    """What stands around the model, as its MLmodel file declares; None where it declares nothing. That a hook is
    allowed has been checked (runtime/policy.py).

    Args:
        inputs: of the loaded model.
        max_pixels: of an image at most, width times height.

    Raises:
        ModelProblem: what is declared is wrong, or does not fit the model; its hook is missing, or fails.
    """
    metadata = declaration(model)
    if metadata is None:
        return None
    try:
        from modelramp_server.images.hook import Hook, path_of
        from modelramp_server.images.pipeline import ImagePipeline
    except ModuleNotFoundError as error:
        raise MissingPackages(
            f"the model declares images (metadata.{KEY}), which need {error.name}, not in this image: "
            "pip install 'modelramp[images]'"
        ) from None
    hook = Hook(path_of(model.root, metadata.hook)) if metadata.hook else None
    return ImagePipeline(metadata, hook, inputs, max_pixels)
