"""The images of a folder, in batches of one shape, decoded while the model is busy with those before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from modelramp_server.protocol.errors import ServingError

if TYPE_CHECKING:
    from modelramp_server.images.pipeline import ImageInputs, ImagePipeline

# Formats that are not served are in it: an image that is left out must not go unnoticed.
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".avif", ".jp2"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image by its name in the folder: what the model is to see of it, or why there is nothing to see."""

    name: str
    made: ImageInputs | None
    error: str = ""


def images_in(folder: Path, but_not: Path) -> list[str]:
    """Paths relative to the folder, sorted; hidden ones and those in the other folder are left out."""
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden and but_not not in path.resolve().parents:
            names.append(name.as_posix())
    return sorted(names)


def picture_names(images: Sequence[str]) -> dict[str, str]:
    """What the pictures made of images are called: a.png for a.jpg, or a.jpg.png where there is another a."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for image in images:
        name = str(PurePosixPath(image).with_suffix(".png"))
        names[image] = f"{image}.png" if name in taken else name
        taken.add(names[image])
    return names


def batches(
    folder: Path, images: Sequence[str], pipeline: ImagePipeline, pool: Executor, rows: int
) -> Iterator[list[Decoded]]:
    """The images in order, at most so many at a time; the next ones are decoded meanwhile."""
    decoded = _decoded(folder, images, pipeline, pool, 2 * rows)
    while batch := list(islice(decoded, rows)):
        yield batch


def by_shape(batch: Sequence[Decoded]) -> list[list[tuple[str, ImageInputs]]]:
    """Those that were decoded; of each group the inputs have one shape."""
    groups: dict[object, list[tuple[str, ImageInputs]]] = {}
    for one in batch:
        if one.made is not None:
            key = tuple(array.shape for array in one.made.arrays.values())
            groups.setdefault(key, []).append((one.name, one.made))
    return list(groups.values())


def _decoded(
    folder: Path, images: Sequence[str], pipeline: ImagePipeline, pool: Executor, ahead: int
) -> Iterator[Decoded]:
    waiting: deque[Future[Decoded]] = deque()
    for image in images:
        waiting.append(pool.submit(_decode, folder, image, pipeline))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decode(folder: Path, image: str, pipeline: ImagePipeline) -> Decoded:
    try:
        return Decoded(image, pipeline.read((folder / image).read_bytes()))
    except ServingError as error:
        return Decoded(image, None, error.message)
    except OSError as error:
        return Decoded(image, None, f"it can't be read: {error.strerror}")
