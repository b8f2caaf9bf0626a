"""A real API server, etcd and controllers for the session; a namespace per test; the operator's own account.

Three processes (pytest-xdist) share it. One runs what needs the one Lease of operators or MLflow's server, one the
operators that are killed, one all the rest.
"""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelramp.adapters.cache import Cache
from modelramp.adapters.clock import SystemClock
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.lease import LEASE
from modelramp.adapters.observe import OWNER
from modelramp.ports import Key, Object
from tests import together
from tests.integration.engine_here import filled
from tests.integration.mlflow_server import MODELS, SENDS_WEBHOOKS, MlflowServer, running
from tests.integration.operator_process import NAME, NAMESPACE, Launcher

HERE = Path(__file__).parent
ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "hack" / "cluster" / "cluster.py"
FOLDER = ROOT / ".cluster-integration"
LOCKS = ROOT / ".demo"
TLS_GOODBYE = 0.1  # aiohttp ends TLS connections in the background ("Graceful Shutdown" in its documentation)
BRING_UP_SECONDS = 1500.0  # the first time on a machine, Kubernetes is compiled


LINES = together.Lines(
    {
        "killed": ["killed_at_every_write", "gateway", "previous_release"],
        "operators": [
            "alias_to_candidate",
            "mlflow_registry",
            "registry_webhooks",
            "registry_credentials",
            "lease",
            "process",
            "leadership",
            "namespaced",
        ],
    }
)
"""By the process that runs them, modules in that order; those marked `alone` stand last, as they wait for others."""
pytest_xdist_make_scheduler = LINES.scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a module waits for the control plane, and for its turn."""
    items.sort(key=lambda item: LINES.place(item.path))
    begun: set[Path] = set()
    for item in items:
        if HERE in item.path.parents and item.path not in begun:
            item.add_marker(pytest.mark.timeout(BRING_UP_SECONDS), append=False)
            begun.add(item.path)


def cluster(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    """Runs hack/cluster on the integration control plane; what it prints."""
    environment = {**os.environ, "MODELRAMP_CLUSTER_DIR": str(FOLDER), "CLUSTER": ""}
    command = [sys.executable, str(CLUSTER), *arguments]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, input=stdin)
    if check and done.returncode:
        raise RuntimeError(f"cluster.py {' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return cluster("kubectl", *arguments, stdin=stdin)


@pytest.fixture(scope="session")
def admin_kubeconfig(testrun_uid: str) -> Iterator[Path]:
    """The control plane, with the CRD and the operator's account in it. One that ran already is left running."""
    with together.shared(LOCKS / "integration.lock", testrun_uid, begin, end):
        yield FOLDER / "kubeconfig"


def begin() -> together.Known:
    found_running = (FOLDER / "state.json").exists()
    cluster("up", "--control-plane-only")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "config" / "install.yaml"))
    kubectl("wait", "--for=condition=Established", "crd/modeldeployments.modelramp.dev", "--timeout=30s")
    kubectl("-n", "modelramp-system", "scale", "deployment/modelramp-operator", "--replicas=0")
    return {"found_running": found_running}


def end(known: together.Known) -> None:
    if not known["found_running"]:
        cluster("down")


@pytest.fixture(scope="module", autouse=True)
def _turn(request: pytest.FixtureRequest) -> Iterator[None]:
    with together.turn(LOCKS, "integration", together.marks(request)):
        yield


@pytest.fixture(scope="session")
def operator_kubeconfig(admin_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rights that the chart gives the operator, and no more."""
    token = kubectl("-n", "modelramp-system", "create", "token", "modelramp-operator").strip()
    path = tmp_path_factory.mktemp("operator") / "kubeconfig"
    path.write_text(admin_kubeconfig.read_text())
    edit = ["--kubeconfig", str(path), "config"]
    kubectl(*edit, "set-credentials", "modelramp-operator", f"--token={token}")
    kubectl(*edit, "set-context", "--current", "--user=modelramp-operator")
    return path


@pytest.fixture
async def admin(admin_kubeconfig: Path) -> AsyncIterator[KubeApi]:
    async for api in connected(admin_kubeconfig):
        yield api


@pytest.fixture
async def api(operator_kubeconfig: Path) -> AsyncIterator[KubeApi]:
    async for api in connected(operator_kubeconfig):
        yield api


async def connected(kubeconfig: Path) -> AsyncIterator[KubeApi]:
    api = await KubeApi.connect(kubeconfig)
    yield api
    await api.close()
    await asyncio.sleep(TLS_GOODBYE)


@pytest.fixture
async def namespace(admin: KubeApi) -> AsyncIterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    await admin.write("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    await admin.write("DELETE", f"/api/v1/namespaces/{name}", None)


@pytest.fixture
async def cache(api: KubeApi, namespace: str) -> AsyncIterator[Cache]:
    """The operator's copy of the test's namespace."""
    async with filled(api, namespace) as cache:
        yield cache


@pytest.fixture
def kube_cluster(api: KubeApi, cache: Cache) -> KubeCluster:
    """The adapter, as the operator, always allowed to write."""
    return KubeCluster(api, cache, SystemClock(), lambda: None)


@pytest.fixture
async def start(admin: KubeApi, admin_kubeconfig: Path, namespace: str, tmp_path: Path) -> AsyncIterator[Launcher]:
    """Starts operators that look after the test's namespace, none of which has led before; ends them with the test."""
    if await admin.find(path_of(LEASE, NAMESPACE, NAME)):
        await admin.write("DELETE", path_of(LEASE, NAMESPACE, NAME), None)
    launcher = Launcher(admin, admin_kubeconfig, tmp_path, namespace)
    yield launcher
    await launcher.end()


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One for all, as it takes its time to start. What a test changes in it, it changes of a model of its own."""
    with running(tmp_path_factory.mktemp("mlflow"), MODELS, **SENDS_WEBHOOKS) as server:
        yield server


@pytest.fixture
def self_signed(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for the loopback, and its key."""
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=loopback"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *names], check=True, capture_output=True)
    return certificate, key


CreateOwner = Callable[..., Any]


@pytest.fixture
def create_owner(admin: KubeApi, namespace: str) -> CreateOwner:
    """Makes a ModelDeployment as a person would: ``await create_owner("digits", rollout={...})``."""

    async def create(name: str = "digits", **spec: Any) -> Object:
        body = {
            "apiVersion": OWNER.api_version,
            "kind": OWNER.kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"model": {"name": name, "alias": "prod"}, **spec},
        }
        return await admin.write("POST", path_of(OWNER, *Key(namespace, "")), body)

    return create
