"""Servers of others, each in a virtual environment of its own below ~/.cache, pinned by `<name>.txt` in this folder."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import bodies
from ..bodies import Post
from ..models import Saved
from ..servers import HOST, MODEL, ROOT, BenchFailed, Server, Servers, free_port

HERE = Path(__file__).parent
APPS = HERE / "apps"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelramp/peers"
_INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Peer:
    """How one is started, and the requests that it is asked with: by encoding, those that it has for a model."""

    title: str
    start: Callable[[Servers, Saved], Server]
    posts: Callable[[Saved], dict[str, Post]]


def _mlserver(servers: Servers, saved: Saved) -> Server:
    home = servers.folder / f"mlserver-{saved.name}"
    home.mkdir()
    port, grpc, metrics = free_port(), free_port(), free_port()
    settings = {"host": HOST, "http_port": port, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0}
    (home / "settings.json").write_text(json.dumps({**settings, "debug": False}))
    (home / "model-settings.json").write_text(json.dumps({"name": MODEL, "implementation": "mlserver_app.Runtime"}))
    return _start("mlserver", servers, saved, port, ["bin/mlserver", "start", str(home)])


def _kserve(servers: Servers, saved: Saved) -> Server:
    return _start("kserve", servers, saved, free_port(), ["bin/python", str(APPS / "kserve_app.py")])


def _litserve(servers: Servers, saved: Saved) -> Server:
    return _start("litserve", servers, saved, free_port(), ["bin/python", str(APPS / "litserve_app.py")])


def _bentoml(servers: Servers, saved: Saved) -> Server:
    port = free_port()
    flags = ["--host", HOST, "--port", str(port), "--working-dir", str(APPS)]
    return _start("bentoml", servers, saved, port, ["bin/bentoml", "serve", "bentoml_app:Bench", *flags])


def _of_v2(saved: Saved) -> dict[str, Post]:
    posts = {"JSON": bodies.v2(saved)}
    return {**posts, "JPEG": bodies.v2_jpeg(saved)} if saved.jpeg else posts


def _of_kserve(saved: Saved) -> dict[str, Post]:
    posts = _of_v2(saved)
    return {**posts, "binary": bodies.v2_binary(saved)} if saved.jpeg else posts


def _of_litserve(saved: Saved) -> dict[str, Post]:
    posts = {"JSON": bodies.named("/predict", "array", saved)}
    return {**posts, "JPEG": bodies.named_jpeg("/predict", saved)} if saved.jpeg else posts


def _of_bentoml(saved: Saved) -> dict[str, Post]:
    posts = {"JSON": bodies.named("/predict", "array", saved)}
    return {**posts, "JPEG": bodies.multipart("/image", "image", saved)} if saved.jpeg else posts


def _of_mlflow(saved: Saved) -> dict[str, Post]:
    return {"JSON": bodies.invocations(saved)}


PEERS = (
    Peer("MLServer", _mlserver, _of_v2),
    Peer("KServe", _kserve, _of_kserve),
    Peer("LitServe", _litserve, _of_litserve),
    Peer("BentoML", _bentoml, _of_bentoml),
    Peer("MLflow", lambda servers, saved: servers.mlflow(saved.folder, saved.python), _of_mlflow),
)


def _start(name: str, servers: Servers, saved: Saved, port: int, command: list[str]) -> Server:
    home = installed(name)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTHON"))},
        "BENCH_MODEL": str(saved.network),
        "BENCH_PACKAGES": os.pathsep.join(saved.packages),
        "BENCH_PORT": str(port),
        "PYTHONPATH": str(APPS),
        "BENTOML_HOME": str(servers.folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    return servers.start(name, port, [str(home / command[0]), *command[1:]], environment)


def installed(name: str) -> Path:
    """The virtual environment, made now if it is not there, or not of today's pins and this interpreter.

    Raises:
        BenchFailed: it can't be made.
    """
    pins = HERE / f"{name}.txt"
    home, digest = CACHE / name, hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_of(home, digest):
            _install(name, home, pins)
            (home / "pins").write_text(digest)
    return home


def _is_of(home: Path, digest: str) -> bool:
    return (home / "pins").is_file() and (home / "pins").read_text() == digest


def _install(name: str, home: Path, pins: Path) -> None:
    uv = ROOT / ".venv/bin/uv"
    pip = [str(uv), "pip", "install", "-q"] if uv.exists() else [sys.executable, "-m", "uv", "pip", "install", "-q"]
    try:
        for command in (
            [sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)],
            [*pip, "--python", str(home / "bin/python"), "--require-hashes", "-r", str(pins)],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.SubprocessError as error:
        raise BenchFailed(f"{name} can't be installed: {error}; {str(getattr(error, 'stderr', ''))[-500:]}") from None
