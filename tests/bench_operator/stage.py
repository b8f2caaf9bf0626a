"""What stands around the operator: a control plane, kwok's nodes, the operator's process under the chart's account."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from modelramp.adapters.kube_api import KubeApi
from modelramp.ports import Conflict, Object
from tests.integration.mlflow_server import free_port
from tests.integration.operator_process import NAME, NAMESPACE, ROOT, token_id, with_token

FOLDER = ROOT / ".cluster-bench"
CLUSTER = ROOT / "hack" / "cluster" / "cluster.py"
PYTHON = ROOT / ".venv-operator" / "bin" / "python"
NODES = 10
LESS_COLLECTING = {"GOGC": "400"}  # the control plane's and kwok's: memory for processor time, of which there is little
POD_NETWORK = "10.244.0.0/16"
START_SECONDS, STOP_SECONDS = 60.0, 15.0
TICKS = os.sysconf("SC_CLK_TCK")


def build() -> Path:
    """What needs the network: Kubernetes, kwok, and the operator's own packages as its image has them, which are fewer
    than those of the tests, and so is its memory. Returns the folder of kwok."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", PYTHON.parents[1]], check=True)
    requirements = ROOT / "requirements" / "operator.txt"
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(requirements)]
    subprocess.run(pip, check=True)
    program = "import binaries; binaries.ensure(binaries.KUBE); print(binaries.ensure(binaries.NODES))"
    done = subprocess.run([sys.executable, "-c", program], cwd=CLUSTER.parent, stdout=subprocess.PIPE, check=True)
    return Path(done.stdout.decode().strip())


def cluster(*arguments: str) -> str:
    environment = {**os.environ, **LESS_COLLECTING, "MODELRAMP_CLUSTER_DIR": str(FOLDER), "CLUSTER": ""}
    done = subprocess.run(
        [sys.executable, str(CLUSTER), *arguments], env=environment, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode()


@contextmanager
def control_plane() -> Iterator[Path]:
    """With the CRD, the chart's rights, and the operator's account in it; the kubeconfig of its administrator."""
    if FOLDER.exists():
        cluster("down")
    try:
        cluster("up", "--control-plane-only")
        install = str(ROOT / "config" / "install.yaml")
        cluster("kubectl", "apply", "--server-side", "--force-conflicts", "-f", install)
        cluster("kubectl", "wait", "--for=condition=Established", "crd/modeldeployments.modelramp.dev", "--timeout=30s")
        cluster("kubectl", "-n", NAMESPACE, "scale", f"deployment/{NAME}", "--replicas=0")
        yield FOLDER / "kubeconfig"
    finally:
        cluster("down")


@contextmanager
def process(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Its process id. It is ended by SIGTERM, then SIGKILL."""
    with log.open("w") as output:
        child = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=output, stderr=output)
    try:
        yield child.pid
        if child.poll() is not None:
            raise RuntimeError(f"{command[0]} has ended: {log.read_text()[-2000:]}")
    finally:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
        child.kill()
        child.wait()


@contextmanager
def nodes(kwok: Path, kubeconfig: Path) -> Iterator[None]:
    flags = ["--manage-all-nodes=true", "--node-lease-duration-seconds=40", "--node-ip=127.0.0.1"]
    files = [f"--kubeconfig={kubeconfig}", f"--config={Path(__file__).with_name('nodes.yaml')}"]
    with process([str(kwok), *flags, *files, f"--cidr={POD_NETWORK}"], FOLDER / "logs" / "kwok.log", LESS_COLLECTING):
        yield


async def register_nodes(api: KubeApi) -> None:
    """kwok brings nodes with this annotation to life, and their pods."""
    for number in range(NODES):
        metadata = {"name": f"kwok-{number}", "annotations": {"kwok.x-k8s.io/node": "fake"}}
        capacity = {"cpu": "1000", "memory": "4000Gi", "pods": "5000"}
        body = {"metadata": metadata, "status": {"capacity": capacity, "allocatable": capacity}}
        with suppress(Conflict):
            await api.write("POST", "/api/v1/nodes", body)


@dataclass
class Operator:
    """The operator's process, and what it says and costs."""

    pid: int
    port: int
    credential: str

    def series(self) -> dict[str, float]:
        """Its own metrics, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {
            f"{sample.name} {' '.join(sample.labels.values())}".strip(): sample.value
            for family in families
            for sample in family.samples
        }

    def leads(self) -> bool:
        with suppress(OSError):
            return self.series().get("modelramp_leader") == 1
        return False

    def peak_mib(self) -> float:
        return self._status_kib("VmHWM") / 1024

    def resident_mib(self) -> float:
        return self._status_kib("VmRSS") / 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def _status_kib(self, name: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name))


@contextmanager
def operator(folder: Path, token: str, kubeconfig: Path, profile: Path | None, **settings: Any) -> Iterator[Operator]:
    """``python -m modelramp`` for all namespaces; with ``profile``, under cProfile, which doubles its time."""
    config, own = folder / "operator.yaml", folder / "operator.kubeconfig"
    config.write_text(yaml.safe_dump({"serverImage": "localhost/none:dev", "logFormat": "text", **settings}))
    own.write_text(with_token(kubeconfig.read_text(), token))
    port = free_port()
    environment = {
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}",
        "KUBECONFIG": str(own),
        "MODELRAMP_CONFIG": str(config),
        "MODELRAMP_NAMESPACE": NAMESPACE,
        "MODELRAMP_POD_NAME": "bench",
        "MODELRAMP_HEALTH_HOST": "127.0.0.1",
        "MODELRAMP_HEALTH_PORT": str(port),
    }
    module = ["-m", "modelramp"] if profile is None else ["-m", "tests.bench_operator.profiled", str(profile)]
    with process([str(PYTHON), *module], FOLDER / "logs" / "operator.log", environment) as pid:
        yield Operator(pid, port, f"JTI={token_id(token)}")


async def token_of_operator(api: KubeApi) -> str:
    request: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = await api.write("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAME}/token", request)
    return str(answer["status"]["token"])
