"""A real Prometheus, from Debian's package, which is unpacked into the cache and not installed."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelramp" / "prometheus"
STARTS_WITHIN = 30.0


def binary() -> Path:
    """One that is installed, or the package's. Raises RuntimeError where there is none to be had."""
    installed = shutil.which("prometheus")
    unpacked = CACHE / "usr/bin/prometheus"
    if installed or unpacked.exists():
        return Path(installed or unpacked)
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        _download(folder)
        package = next(Path(folder).glob("prometheus_*.deb"))
        subprocess.run(["dpkg", "-x", str(package), f"{folder}/unpacked"], check=True, capture_output=True)
        shutil.rmtree(CACHE, ignore_errors=True)
        Path(folder, "unpacked").rename(CACHE)
    return unpacked


def _download(folder: str) -> None:
    command, said = ["apt-get", "download", "prometheus"], ""
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    for before in ([], [*sudo, "apt-get", "update"]):
        if before:
            subprocess.run(before, check=False, capture_output=True)
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        if not done.returncode:
            return
        said = done.stderr
    raise RuntimeError(f"no Prometheus: put one into the PATH, or see why apt-get has none: {said[-500:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def prometheus(folder: Path, scrapes: list[dict[str, Any]], web: dict[str, Any]) -> AsyncIterator[str]:
    """Its address, once it is ready. ``scrapes`` and ``web`` are parts of its two configuration files."""
    port, scheme = free_port(), "https" if "tls_server_config" in web else "http"
    uri = f"{scheme}://127.0.0.1:{port}"
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": scrapes}))
    (folder / "web.yml").write_text(yaml.safe_dump(web))
    log = (folder / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        binary(),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--web.config.file={folder / 'web.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=log,
        stderr=log,
    )
    try:
        await _ready(uri, process)
        yield uri
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        log.close()


async def _ready(uri: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(STARTS_WITHIN), aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(f"{uri}/-/ready", ssl=False) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError("Prometheus ended; its log lies in the test's folder")
