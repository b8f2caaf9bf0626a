"""What a copy of a model consists of: size and sha256 of each file, and what it is a copy of.

A finished copy has its manifest beside it. A copy in the making has a journal, to which each file is added when it is
whole: the next attempt goes on from there.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from modelramp_server.model_store.digest import combined_digest, file_digest


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file: path relative to the model's folder, bytes, sha256 in hex."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, root: Path, name: str) -> "FileRecord":
        """Of the file as it is.

        Raises:
            ArtifactDamaged: it can't be read.
        """
        path = root / name
        return cls(name, path.stat().st_size, file_digest(path))

    def holds(self, root: Path) -> bool:
        """Whether the file under this folder is the one recorded."""
        path = root / self.name
        return path.is_file() and path.stat().st_size == self.size and file_digest(path) == self.sha256


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole copy. `identity` is what it is a copy of; empty: of something that may have changed since."""

    identity: Mapping[str, str]
    files: tuple[FileRecord, ...]

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over every path and content."""
        return combined_digest((record.name, record.sha256) for record in self.files)

    def holds(self, root: Path) -> bool:
        """Whether the folder is that copy: all files as recorded, and no others."""
        there = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
        return there == {record.name for record in self.files} and all(record.holds(root) for record in self.files)

    def write(self, path: Path) -> None:
        """Replace the file at once."""
        document = {"identity": dict(self.identity), "files": [asdict(record) for record in self.files]}
        scratch = path.with_name(path.name + ".new")
        scratch.write_text(json.dumps(document))
        scratch.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """The manifest in the file; None if there is none that can be read."""
        try:
            document = json.loads(path.read_text())
            return cls(document["identity"], tuple(FileRecord(**record) for record in document["files"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Journal:
    """Lines of JSON: first what is being copied and how large it will be, then one per file that is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self) -> tuple[Manifest, int]:
        """What is there already, and the bytes that the copy will have. A line that was cut short is left out."""
        try:
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return Manifest({}, ()), 0
        documents = []
        for line in lines:
            try:
                documents.append(json.loads(line))
            except ValueError:
                break
        try:
            head, *records = documents
            return Manifest(head["identity"], tuple(FileRecord(**record) for record in records)), int(head["bytes"])
        except (ValueError, KeyError, TypeError):
            return Manifest({}, ()), 0

    def begin(self, identity: Mapping[str, str], size: int, whole: Iterable[FileRecord]) -> None:
        """Start anew, with the files that are whole already."""
        lines = [json.dumps({"identity": dict(identity), "bytes": size}), *(json.dumps(asdict(r)) for r in whole)]
        self._path.write_text("".join(f"{line}\n" for line in lines))

    def add(self, record: FileRecord) -> None:
        """One more file is whole. May be called from several threads."""
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def key_of(*parts: str) -> str:
    """A short name for what the parts name together."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
