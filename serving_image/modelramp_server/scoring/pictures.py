"""What is kept of one image: pictures of its mask, and a line of what the model found."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelramp_server.images.sniff import kind_of
from modelramp_server.protocol.tensors import Array
from modelramp_server.scoring.whole import whole

if TYPE_CHECKING:
    from modelramp_server.images.pipeline import ImagePipeline
    from modelramp_server.images.postprocess import Findings
    from modelramp_server.images.preprocess import View

_MOST_VALUES = 1000  # of an output, in a line


class Keeper:
    """Writes into the output folder what was asked for. Called from several threads."""

    def __init__(self, pipeline: ImagePipeline, source: Path, output: Path, write: Collection[str]) -> None:
        self._pipeline = pipeline
        self._source = source
        self._output = output
        self._write = write

    def keep(self, image: str, picture: str, findings: Findings, row: int, view: View) -> dict[str, Any]:
        """The line of an image; its files, named by `picture`, are whole when this returns.

        Raises:
            ServingError: a picture that was asked for can't be made.
        """
        line: dict[str, Any] = {"image": image, "width": view.width, "height": view.height}
        if findings.mask is not None:
            line["shares"] = _shares(findings.mask[row], findings.names)
            line["files"] = [
                self._save(f"{kind}/{picture}", make(image, findings, row, view))
                for kind, make in self._makers().items()
                if kind in self._write
            ]
        for name, array in findings.arrays.items():
            if name != "mask" and array.ndim and array[row : row + 1].size <= _MOST_VALUES and name not in line:
                line[name] = _plain(array[row])
        return line

    def _makers(self) -> dict[str, Callable[[str, Findings, int, View], bytes]]:
        return {
            "masks": lambda _, findings, row, view: self._pipeline.mask_png(findings, row, view),
            "probabilities": lambda _, findings, row, view: self._pipeline.probability_png(findings, row, view),
            "overlays": self._overlay,
        }

    def _overlay(self, image: str, findings: Findings, row: int, view: View) -> bytes:
        body = (self._source / image).read_bytes()
        return self._pipeline.overlay_png(findings, row, view, self._pipeline.open(body, kind_of(body, "")))

    def _save(self, name: str, body: bytes) -> str:
        path = self._output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as scratch:
            scratch.write_bytes(body)
        return name


def _shares(mask: Array, names: tuple[str, ...]) -> dict[str, float]:
    """Of the pixels that the model saw, the share of each class."""
    numbers, counts = np.unique(mask, return_counts=True)
    return {
        names[number] if number < len(names) else str(number): round(count / mask.size, 6)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    }


def _plain(value: Any) -> Any:
    """For JSON: numbers and words; what is not finite as a word."""
    items = np.asarray(value)
    if items.dtype.kind == "f" and not np.isfinite(items).all():
        return np.vectorize(lambda item: item if np.isfinite(item) else str(item), otypes=[object])(items).tolist()
    return items.tolist() if items.dtype.kind != "f" else np.round(items.astype(np.float64), 6).tolist()
