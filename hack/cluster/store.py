"""Container images as buildah builds and keeps them: a store in the cache, shared by all clones."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import binaries
from errors import ClusterError
from state import write


def buildah(*arguments: object) -> str:
    """Run buildah on the store; its standard output. Raises ClusterError with what it said."""
    command = _command(*arguments)
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


def stream(tag: str, name: str, reader: list[str]) -> None:
    """Pipe an image, as a Docker archive that calls it `name`, into a command that reads it."""
    command = _command("push", "--quiet", tag, f"docker-archive:/dev/stdout:{name}")
    with subprocess.Popen(
        command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        read = subprocess.run(reader, stdin=writer.stdout, capture_output=True, text=True, check=False)
        said = writer.communicate()[1]
    if writer.returncode or read.returncode:
        raise ClusterError(f"{' '.join(command)} | {' '.join(reader)} failed:\n{said[-2000:]}{read.stderr[-2000:]}")


def has(tag: str) -> bool:
    return bool(buildah("images", "--quiet", "--filter", f"reference={tag}"))


@contextmanager
def locked() -> Iterator[None]:
    """One user of the store at a time, so that two clones don't build the same thing twice."""
    with (scratch().parent / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(_run_folder(), ignore_errors=True)  # a killed run's
        try:
            yield
        finally:
            shutil.rmtree(_run_folder(), ignore_errors=True)


def scratch() -> Path:
    """A folder for large files that are needed for a moment."""
    folder = binaries.cache() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _folder() -> Path:
    return binaries.cache() / "images"


def _run_folder() -> Path:
    """What buildah keeps for a moment; all mounts are gone with their process, so nothing of it is worth keeping."""
    return binaries.cache() / "images-run"


def _command(*arguments: object) -> list[str]:
    """In a mount namespace of its own: killed, it leaves no mounts."""
    place = [f"--root={_folder()}", f"--runroot={_run_folder()}", "--storage-driver=overlay"]
    return ["unshare", "--mount", "buildah", *place, *(str(argument) for argument in arguments)]


def _environment() -> dict[str, str]:
    configuration = _folder() / "containers.conf"
    write(configuration, f'[network]\nnetwork_config_dir = "{_folder()}"\n')  # else it makes /etc/cni
    ours = {"BUILDAH_ISOLATION": "chroot", "CONTAINERS_CONF": str(configuration), "TMPDIR": str(scratch())}
    return os.environ | ours
