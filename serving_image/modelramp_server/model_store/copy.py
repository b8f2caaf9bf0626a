"""One copy of a model on disk: filled file by file, checked against what was recorded, renamed into place whole.

Beside the folder stand `<name>.manifest` (what it holds), `<name>.digest` (docs/contract.md), `<name>.lock`, and while
it is being made `<name>.partial`.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from modelramp_server import sizes
from modelramp_server.model_store.failures import RegistryUnavailable
from modelramp_server.model_store.manifest import FileRecord, Journal, Manifest
from modelramp_server.model_store.sources import RemoteFile, Source
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import ArtifactDamaged

_DOWNLOADS = 4  # at a time

# Asked for so many bytes before they are written; raises if there is no room. While it is open, nobody else is asked.
MakeRoom = Callable[[int], AbstractContextManager[None]]

log = logging.getLogger(__name__)


class Copy:
    """A model's folder, and what is known of it. Who writes holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = _beside(folder, ".lock")
        self._manifest = _beside(folder, ".manifest")
        self._digest = _beside(folder, ".digest")
        self._partial = _beside(folder, ".partial")
        self._whole = self._partial / "whole"
        self._journal = Journal(self._partial / "journal")

    def manifest(self) -> Manifest | None:
        """What the copy holds, if it is finished and undamaged: every byte is read."""
        manifest = Manifest.read(self._manifest)
        if manifest is None or not self.folder.is_dir():
            return None
        if not manifest.holds(self.folder):
            log.warning("the copy in %s is damaged", self.folder)
            return None
        shutil.rmtree(self._partial, ignore_errors=True)
        return manifest

    def reserved(self) -> int:
        """The bytes that the copy has, or will have when it is finished."""
        finished = Manifest.read(self._manifest)
        return max(sum(record.size for record in finished.files) if finished else 0, self._journal.read()[1])

    def fill(self, source: Source, make_room: MakeRoom, expected: str = "") -> Manifest:
        """Copy what is missing, and put the copy in its place.

        Args:
            expected: the digest that the whole must have; empty: any.

        Raises:
            ModelProblem: the source does not give it, gives something else, or there is no room.
            OSError: the disk does not take it.
        """
        self._refuse_what_is_not_ours()
        listing = source.files()
        whole = self._keep(self._known(source.identity, expected), listing)
        missing = [file for file in listing if file.name not in whole]
        with make_room(_bytes(missing)):
            self._journal.begin(source.identity, _bytes(listing), whole.values())
        log.info("fetching %s: %s", source.uri, _amount(missing, len(whole)))
        self._download(source, missing)
        return self._finish(source, expected)

    def _known(self, identity: Mapping[str, str], expected: str) -> list[Manifest]:
        """Records of files of the same thing: of the attempt before, and of the copy in place."""
        finished = Manifest.read(self._manifest)
        if finished is not None and expected not in ("", finished.digest):
            finished = None
        same = [one for one in (self._journal.read()[0], finished) if one is not None and one.identity == identity]
        return same if identity else []

    def _keep(self, known: list[Manifest], listing: list[RemoteFile]) -> dict[str, FileRecord]:
        """Bring the files that are there already and undamaged together, in the folder of whole files."""
        kept: dict[str, FileRecord] = {}
        for file in listing:
            for record in (one for manifest in known for one in manifest.files if one.name == file.name):
                if file.size in (None, record.size) and self._take(record):
                    kept[file.name] = record
                    break
        self._clear(set(kept))
        return kept

    def _take(self, record: FileRecord) -> bool:
        if record.holds(self._whole):
            return True
        if not record.holds(self.folder):
            return False
        place = self._whole / record.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(self.folder / record.name, place)
        except OSError:  # a file system without links
            shutil.copyfile(self.folder / record.name, place)
        return True

    def _clear(self, kept: set[str]) -> None:
        self._whole.mkdir(parents=True, exist_ok=True)
        for path in self._partial.iterdir():
            if path.is_dir() and path != self._whole:
                shutil.rmtree(path)
        for path in self._whole.rglob("*"):
            if not path.is_dir() and path.relative_to(self._whole).as_posix() not in kept:
                path.unlink()

    def _download(self, source: Source, missing: list[RemoteFile]) -> None:
        coming = self._partial / "coming"
        coming.mkdir(exist_ok=True)

        def get(file: RemoteFile) -> None:
            source.download(file.name, coming)
            record = FileRecord.of(coming, file.name)
            if file.size not in (None, record.size):
                raise RegistryUnavailable(
                    f"{file.name} of {source.uri} came with {record.size} bytes; its store says {file.size}"
                )
            place = self._whole / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            (coming / file.name).replace(place)
            self._journal.add(record)

        largest_first = sorted(missing, key=lambda file: -(file.size or 0))
        with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="fetch") as pool:
            list(pool.map(get, largest_first))

    def _finish(self, source: Source, expected: str) -> Manifest:
        manifest = Manifest(source.identity, self._journal.read()[0].files)
        try:
            if expected not in ("", manifest.digest):
                raise ArtifactDamaged(f"{source.uri} has the digest {manifest.digest}, expected was {expected}")
            mlmodel.read(self._whole)
        except ArtifactDamaged as problem:
            shutil.rmtree(self._partial)
            raise ArtifactDamaged(str(problem).replace(str(self._whole), source.uri)) from None
        if self.folder.exists():
            self.folder.rename(self._partial / "former")
        self._whole.rename(self.folder)
        manifest.write(self._manifest)
        self._digest.write_text(manifest.digest)
        shutil.rmtree(self._partial)
        return manifest

    def _refuse_what_is_not_ours(self) -> None:
        ours = self._manifest.exists() or self._partial.exists() or not self.folder.exists()
        if not ours and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ArtifactDamaged(f"{self.folder} holds what was not fetched; name a folder that is empty or new")
        self.folder.parent.mkdir(parents=True, exist_ok=True)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _bytes(files: list[RemoteFile]) -> int:
    return sum(file.size or 0 for file in files)


def _amount(missing: list[RemoteFile], kept: int) -> str:
    there = f", {kept} are here already" if kept else ""
    return f"{len(missing)} files, {sizes.shown(_bytes(missing))}{there}"
