"""From the model's outputs to what they mean: a class and how sure, or a mask; as declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING

import numpy as np

from modelramp_server.images import KEY
from modelramp_server.protocol.errors import ModelFailed
from modelramp_server.protocol.tensors import Array

if TYPE_CHECKING:
    from modelramp_server.images.declared import Layout, Postprocess

_MASK_AXES = 3  # rows, height, width


@dataclass(frozen=True, slots=True)
class Findings:
    """What the outputs for some rows mean.

    `arrays` is told to clients, by name. For classes: `class` (a name, or its number), `confidence`, `probabilities`;
    where several may be seen at once, `labels` (booleans) and `probabilities`. For masks: `mask`, of the shape (rows,
    height, width) in the model's own pixels, each the number of a class; it is here once more as `mask`. `names` are
    the classes by number, if they have any.
    """

    arrays: dict[str, Array]
    mask: Array | None = None
    names: tuple[str, ...] = ()
    _scores: Array | None = field(default=None, repr=False)
    _activation: str = "none"

    def probabilities(self) -> Array | None:
        """Of the shape (rows, classes) or (rows, classes, height, width), float32; a single class is the one that the
        threshold is for. None where the model tells none."""
        if self._scores is None:
            return self.arrays.get("probabilities")
        return _activated(self._scores, self._activation)


class Postprocessor:
    """What is declared; `layout` is that of the input, which outputs with four axes share. Called from many threads."""

    def __init__(self, declared: Postprocess, layout: Layout) -> None:
        self.declared = declared
        self._axis = 3 if layout == "NHWC" else 1
        self._names = tuple(declared.classes or ())

    def __call__(self, outputs: Mapping[str, Array]) -> Findings:
        """What some rows' outputs mean.

        Raises:
            ModelFailed: the outputs are not such as is declared.
        """
        output = self._output(outputs)
        if output.dtype.kind in "iub":
            return self._of_labels(output)
        scores = self._scores(output)
        if scores.ndim == 2:
            return self._of_classes(scores)
        return self._of_pixels(scores)

    def _output(self, outputs: Mapping[str, Array]) -> Array:
        name = self.declared.output or next(iter(outputs))
        if name not in outputs:
            raise ModelFailed(f"metadata.{KEY}.postprocess.output is {name!r}; the model answered {sorted(outputs)}")
        return outputs[name]

    def _scores(self, output: Array) -> Array:
        """The output as (rows, classes) or (rows, classes, height, width)."""
        if output.dtype.kind != "f" or output.ndim not in (1, 2, 3, 4):
            raise ModelFailed(
                f"metadata.{KEY}.postprocess: an output of {output.dtype} and shape {list(output.shape)} holds "
                "neither classes nor masks"
            )
        if output.ndim in (1, 3):
            output = output[:, None]
        elif output.ndim == 4 and self._axis == 3:
            output = output.transpose(0, 3, 1, 2)
        if self.declared.cut is None and output.shape[1] == 1:
            raise ModelFailed(
                f"metadata.{KEY}.postprocess: the output has one class, which is always the largest; set a threshold"
            )
        return output

    def _of_labels(self, output: Array) -> Findings:
        if output.ndim == 4 and output.shape[self._axis] == 1:
            output = output.squeeze(self._axis)
        if output.ndim == _MASK_AXES:
            mask = output.astype(np.uint8) if output.dtype == np.bool_ else output
            return Findings({"mask": mask}, mask, self._names)
        if output.ndim == 2 and output.shape[1] == 1:
            output = output[:, 0]
        if output.ndim != 1:
            raise ModelFailed(
                f"metadata.{KEY}.postprocess: an output of {output.dtype} and shape {list(output.shape)} holds "
                "neither classes nor masks"
            )
        return Findings({"class": self._named(output)}, names=self._names)

    def _of_classes(self, scores: Array) -> Findings:
        probabilities = _activated(scores, self.declared.activation)
        cut = self.declared.cut
        if cut is None:
            best = probabilities.argmax(axis=1)
            confidence = probabilities[np.arange(len(best)), best]
        elif scores.shape[1] == 1:
            best = (probabilities[:, 0] >= cut).astype(np.int64)
            confidence = np.where(best, probabilities[:, 0], 1 - probabilities[:, 0])
        else:
            return Findings({"labels": probabilities >= cut, "probabilities": probabilities}, names=self._names)
        arrays = {"class": self._named(best), "confidence": confidence, "probabilities": probabilities}
        return Findings(arrays, names=self._names)

    def _of_pixels(self, scores: Array) -> Findings:
        cut = self.declared.cut
        if cut is not None and self.declared.activation == "sigmoid":
            cut = log(cut / (1 - cut))  # of the scores themselves: no pixel need go through the function
        mask = _largest(scores, cut)
        return Findings({"mask": mask}, mask, self._names, scores, self.declared.activation)

    def _named(self, numbers: Array) -> Array:
        if not self._names:
            return numbers
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self._names):
            raise ModelFailed(
                f"metadata.{KEY}.postprocess.classes has {len(self._names)} names; the model says {int(numbers.max())}"
            )
        return np.array(self._names, dtype=object)[numbers.astype(np.intp)]


def named(arrays: Mapping[str, Array]) -> Findings:
    """What a hook made of the outputs. Its mask is the first array of integers or booleans with the axes (rows,
    height, width); its probabilities are those that it calls so."""
    mask = next((each for each in arrays.values() if each.ndim == _MASK_AXES and each.dtype.kind in "iub"), None)
    if mask is not None and mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    return Findings(dict(arrays), mask)


def _largest(scores: Array, cut: float | None) -> Array:
    """The number of the largest class of each pixel; with a cut, 0 where none reaches it, and numbers from 1.

    Goes through classes, not pixels: that is many times faster than numpy's argmax over this axis.
    """
    best = scores[:, 0]
    mask = np.zeros(best.shape, np.uint8 if scores.shape[1] < 256 else np.int32)
    for index in range(1, scores.shape[1]):
        np.copyto(mask, index, where=scores[:, index] > best)
        best = np.fmax(best, scores[:, index])
    if cut is not None:
        mask += 1
        np.copyto(mask, 0, where=~(best >= cut))
    return mask


def _activated(scores: Array, activation: str) -> Array:
    scores = scores.astype(np.float32, copy=False)
    if activation == "softmax":
        powers: Array = np.exp(scores - scores.max(axis=1, keepdims=True))
        powers /= powers.sum(axis=1, keepdims=True)
        return powers
    if activation == "sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * scores))
    return scores
