"""What a model lists in its requirements.txt, beside what is installed here."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PYTHON = platform.python_version()
# The image has the part of MLflow that models need, which is a package of its own.
_STANDS_FOR = {"mlflow": "mlflow-skinny"}


def required(root: Path) -> "list[Requirement]":
    """The requirements that apply on this machine; lines that are none (`-r`, URLs) are left out."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = (root / "requirements.txt").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            requirement = Requirement(line.split(" #")[0].strip())
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            requirement.name = canonicalize_name(requirement.name)
            found.append(requirement)
    return found


def installed(name: str) -> str | None:
    """The version here; None if the package is not."""
    for package in (name, _STANDS_FOR.get(name)):
        if package is None:
            continue
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def other_versions(listed: "list[Requirement]") -> list[str]:
    """What is here in another version than is listed, both named."""
    return [
        f"{one} (here {found})"
        for one in listed
        if (found := installed(one.name)) is not None and not one.specifier.contains(found, prereleases=True)
    ]


def same_python(wanted: str) -> bool:
    """Whether this is the Python wanted, but for its last number."""
    return wanted.split(".")[:2] == PYTHON.split(".")[:2]
