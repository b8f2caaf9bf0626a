"""What must stand before the story begins: cluster, images, MLflow, operator, four registered versions."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .kube import Body, Kube, connect, documents, wait
from .names import ALIAS, MODEL, NAMESPACE, OBJECT

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
SYSTEM, OPERATOR = "modelramp-system", "modelramp-operator"
OUTCOME = ROOT / ".demo"
IMAGES = OUTCOME / "images.jsonl"
LEADS = 60.0  # seconds until a Service leads to a pod that serves, on a busy machine
REGISTRIES = {"default": {"uri": f"http://mlflow.{NAMESPACE}.svc:5000"}}


class StageFailed(Exception):
    """The cluster did not come up. ``str(error)`` says which command, and what it said."""


def cluster(*arguments: str, quiet: bool = True) -> str:
    """Run hack/cluster; its standard output. Raises StageFailed."""
    return _run([sys.executable, str(ROOT / "hack/cluster/cluster.py"), *arguments], quiet)


def _run(command: list[str], quiet: bool = True) -> str:
    done = subprocess.run(command, cwd=ROOT, check=False, text=True, capture_output=quiet)
    if done.returncode:
        raise StageFailed(f"{' '.join(command[1:])} failed: {(done.stderr or 'see above').strip()[-2000:]}")
    return (done.stdout or "").strip()


def reach(service: str) -> str:
    """The address at which a Service is published on loopback. Raises StageFailed."""
    return f"http://127.0.0.1:{cluster('publish', service)}"


def leads(url: str, body: bytes | None = None) -> bool:
    """Whether somebody answers what is asked there."""
    try:
        urllib.request.urlopen(url, body, timeout=5).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Stage:
    """A cluster in which the story can begin. `mlflow` is the registry's address on this machine."""

    kube: Kube
    mlflow: str

    def apply_object(self) -> None:
        self.kube.apply(documents(HERE / "modeldeployment.yaml"))

    def service(self, namespace: str = NAMESPACE, name: str = OBJECT) -> str:
        """A main Service's address on loopback. It leads somewhere a moment after the status says that a version
        serves: the Service is written after the status, and the node follows later still.

        Raises StageFailed, kube.Unready.
        """
        service = f"{namespace}/{name}"
        wait(f"a ready endpoint of {service}", LEADS, lambda: self.kube.endpoints(namespace, name) > 0)
        url = reach(service)
        wait(f"an answer of {service}", LEADS, lambda: leads(f"{url}/v2/health/live"))
        return url

    def alias(self, version: int, alias: str = ALIAS, model: str = MODEL) -> None:
        """Move the alias, as a person does in MLflow's pages. Raises urllib.error.URLError."""
        body = json.dumps({"name": model, "alias": alias, "version": str(version)}).encode()
        address = f"{self.mlflow}/api/2.0/mlflow/registered-models/alias"
        request = urllib.request.Request(address, body, {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=30).close()


def prepare(say: Callable[[str], None], registries: Body = REGISTRIES, images: str = "--images") -> Stage:
    """Bring all of it up, with these images of hack/cluster's; what stands already is kept, but for the demo's own
    namespace. Raises StageFailed, kube.Unready."""
    say("cluster and images")
    cluster("up", images, quiet=False)
    kube = Kube(connect(Path(cluster("kubeconfig"))))
    say("MLflow and the operator")
    namespace, *registry = documents(HERE / "mlflow.yaml")
    kube.fresh_namespace(namespace)
    kube.apply(registry)
    install(kube, registries=registries)
    stage = present()
    say("training versions 1 to 4, and registering them")
    _run([sys.executable, "-m", "examples.digits.train", stage.mlflow, str(IMAGES)])
    kube.await_deployment(SYSTEM, OPERATOR, 120)
    return stage


def present() -> Stage:
    """The stage as somebody has prepared it. Raises StageFailed."""
    return Stage(Kube(connect(Path(cluster("kubeconfig")))), reach(f"{NAMESPACE}/mlflow:5000"))


def install(kube: Kube, **settings: Any) -> None:
    """config/install.yaml with these settings, its operator started anew."""
    bodies = documents(ROOT / "config/install.yaml")
    for body in bodies:
        if body["kind"] == "ConfigMap" and "config.yaml" in body["data"]:
            _configure(body, settings)
    kube.apply(bodies)
    kube.restart(SYSTEM, OPERATOR)


def _configure(body: Body, settings: dict[str, Any]) -> None:
    shipped = yaml.safe_load(body["data"]["config.yaml"])
    body["data"]["config.yaml"] = yaml.safe_dump(shipped | settings, sort_keys=False)


@contextmanager
def traffic(url: str, answers: Path, rate: float, model: str = MODEL) -> Iterator[None]:
    """Clients in a process of their own, for as long as this lasts; at the end requests under way are answered.

    Raises StageFailed if the clients ended before.
    """
    answers.parent.mkdir(parents=True, exist_ok=True)
    arguments = [url, str(IMAGES), str(answers), f"--rate={rate}", f"--model={model}"]
    command = [sys.executable, "-m", "examples.digits.traffic", *arguments]
    clients = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
        if clients.poll() is not None:
            raise StageFailed(f"the clients ended by themselves, with status {clients.returncode}")
    finally:
        clients.terminate()
        try:
            clients.wait(30)
        except subprocess.TimeoutExpired:
            clients.kill()
            clients.wait()
