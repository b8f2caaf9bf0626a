"""The images of this project, and the base they stand on where no registry can be reached.

An image is tagged with a hash of all that goes into it, so what is unchanged is neither built nor imported again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import store
from errors import ClusterError
from progress import step
from state import CLONE, write

_WHEEL = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "operator",
    "serving_image",
    "hack/cluster/build-backend.txt",
)


@dataclass(frozen=True)
class Image:
    """An image as `localhost/NAME:dev`; `inputs` are files and folders of the clone."""

    name: str
    dockerfile: str
    inputs: tuple[str, ...]
    target: str = ""

    @property
    def dev(self) -> str:
        return f"localhost/{self.name}:dev"


IMAGES = (
    Image("modelramp-operator", "Dockerfile", (*_WHEEL, "requirements/operator.txt"), "operator"),
    Image("modelramp-server", "Dockerfile", (*_WHEEL, "requirements/server-onnx-sklearn.txt"), "server"),
    Image("modelramp-mlflow", "hack/cluster/mlflow.Dockerfile", ("requirements/mlflow.txt",)),
)
TEST_IMAGES = (*IMAGES, Image("modelramp-triton", "hack/cluster/triton.Dockerfile", ("requirements/triton.txt",)))
"""With what the e2e tests need beside the demo."""


def build(images: Iterable[Image]) -> dict[str, str]:
    """Build what changed, as root; the tag in the store by the name that manifests use."""
    built = {}
    with store.locked():
        store.buildah("rm", "--all")  # what a killed build was working on
        base = os.environ.get("BASE_IMAGE") or _base()
        for image in images:
            tag = built[image.dev] = f"localhost/{image.name}:{_digest(image, base)}"
            if not store.has(tag):
                with step(f"building {image.name}"):
                    _build(image, base, tag)
    return built


def _build(image: Image, base: str, tag: str) -> None:
    with tempfile.TemporaryDirectory(dir=store.scratch()) as folder:
        target = [f"--target={image.target}"] if image.target else []
        store.buildah(
            *("bud", "--quiet", "--layers", "--network=host", f"--build-arg=BASE_IMAGE={base}"),
            *("--volume=/etc/ssl/certs:/etc/ssl/certs:ro", *_pip_volumes(Path(folder))),
            *(f"--file={CLONE / image.dockerfile}", *target, f"--tag={tag}", CLONE),
        )


def _pip_volumes(folder: Path) -> list[str]:
    """Lets pip in a build ask the indexes that this machine's pip asks, without leaving a trace in the image."""
    listing = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    settings = dict(re.findall(r"^(?::env:|\w+)\.([\w-]+)='(.*)'$", listing, re.MULTILINE))
    links = [link for link in settings.pop("find-links", "").split() if "://" in link or Path(link).is_dir()]
    lines = [f"{name} = {value}" for name, value in settings.items()]
    if links:
        lines.append(f"find-links = {' '.join(links)}")
    write(folder / "pip.conf", "[global]\n" + "\n".join(lines) + "\n")
    folders = [f"--volume={link}:{link}:ro" for link in links if "://" not in link]
    return [f"--volume={folder}/pip.conf:/etc/pip.conf:ro", *folders]


def _digest(image: Image, base: str) -> str:
    digest = hashlib.sha256(f"{base}\0{image.target}\0".encode())
    for name in sorted((image.dockerfile, *image.inputs)):
        top = CLONE / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(CLONE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _base() -> str:
    """This machine's own distribution with Python, for want of `python:3.11-slim`; its tag in the store."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    tag = f"localhost/modelramp-base:{release}"
    if store.has(tag):
        return tag
    with step(f"building the base image from {release} packages (once)"):
        root = store.scratch() / "base"
        shutil.rmtree(root, ignore_errors=True)
        _debootstrap(release, root)
        container = store.buildah("from", "scratch")
        store.buildah("copy", container, root, "/")
        store.buildah("commit", "--quiet", "--rm", container, tag)
        shutil.rmtree(root)
    return tag


def _debootstrap(release: str, root: Path) -> None:
    """In a mount namespace of its own: killed, it leaves no mounts."""
    include = "--include=python3,python3-venv,ca-certificates"
    command = [
        "unshare",
        "--mount",
        "debootstrap",
        "--variant=minbase",
        include,
        release,
        str(root),
        _mirror(release),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
    for waste in (
        "dev",
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ):
        shutil.rmtree(root / waste)
    (root / "dev").mkdir()


def _mirror(release: str) -> str:
    """Where this machine's own apt gets the release from."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listing.splitlines():
        address, *rest = line.split()
        if rest == [release, "main"]:
            return address
    raise ClusterError(f"apt's sources name no mirror for {release}; set BASE_IMAGE to an image with Python 3.11")
