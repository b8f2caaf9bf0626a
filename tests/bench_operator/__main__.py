"""``make bench-operator``: many ModelDeployments from nothing to rest, and from one version to the next.

All real but the pods: API server, etcd, controllers, scheduler, MLflow, the operator under the chart's account. kwok
plays the nodes; one process answers at all the pods' addresses, in a network namespace of its own where they are local.
Judges nothing: exits 0.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.ports import Object
from tests.audit_log import entries
from tests.integration import operator_process
from tests.integration.mlflow_server import MlflowServer
from tests.integration.operator_process import ROOT

from . import registry, report, stage
from .pods import Pods
from .statuses import Statuses

OUTCOME = ROOT / ".demo" / "bench-operator.json"
INSIDE = "--inside"
TEAMS = 10
AT_ONCE = 16
LOOK_SECONDS = 0.5
POLL_INTERVAL = 15
PATIENCE = 1800.0
HOLDS = {"steps": [{"weight": 10, "hold": "10s"}, {"weight": 50, "hold": "10s"}], "bake": "10s"}
HELD_SECONDS = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_operator", description=__doc__)
    parser.add_argument("--objects", type=int, default=1000, help="ModelDeployments (%(default)s)")
    parser.add_argument("--rest", type=int, default=60, help="seconds at rest (%(default)s)")
    parser.add_argument("--profile", type=Path, help="run the operator under cProfile, and write that here")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        return enter_network()
    for command in ("link set lo up", f"route add local {stage.POD_NETWORK} dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures = asyncio.run(measure(arguments.objects, arguments.rest, arguments.profile))
    except KeyboardInterrupt:
        return 130
    OUTCOME.parent.mkdir(exist_ok=True)
    OUTCOME.write_text(json.dumps(figures, indent=1) + "\n")
    print(report.table(figures))
    return 0


def enter_network() -> int:
    """Builds what must be built, then does it all in a network namespace in which the pods' addresses are local."""
    os.environ["KWOK"] = str(stage.build() / "kwok")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", sys.executable, "-m", "tests.bench_operator", INSIDE, *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


async def measure(objects: int, rest_seconds: int, profile: Path | None) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelramp-bench-")))
        kubeconfig = stack.enter_context(stage.control_plane())
        say(f"MLflow with {objects} models of two versions")
        mlflow = stack.enter_context(registry.running(folder, objects))
        stack.enter_context(stage.nodes(Path(os.environ["KWOK"]), kubeconfig))
        api = await KubeApi.connect(kubeconfig)
        try:
            await stage.register_nodes(api)
            pods = Pods(api)
            async with pods.answering(), Statuses(api) as statuses:
                token = await stage.token_of_operator(api)
                settings = {"registries": {"default": {"uri": mlflow.uri}}, "pollInterval": f"{POLL_INTERVAL}s"}
                operator = stack.enter_context(stage.operator(folder, token, kubeconfig, profile, **settings))
                async with asyncio.timeout(stage.START_SECONDS):
                    while not operator.leads():  # noqa: ASYNC110, another process sets no asyncio.Event
                        await asyncio.sleep(0.2)
                run = Run(api, operator, statuses, objects)
                settle = await run.settle()
                rest = await run.rest(mlflow, rest_seconds)
                say("moving all aliases to version 2")
                registry.move_aliases(folder)
                promote = await run.promote()
        finally:
            await api.close()
    machine = {"cpus": os.cpu_count(), "load_before": load_before, "load_after": os.getloadavg()[0]}
    return {"objects": objects, "machine": machine, "settle": settle, "rest": rest, "promote": promote}


class Run:
    """The phases, each with what it cost."""

    def __init__(self, api: KubeApi, operator: stage.Operator, statuses: Statuses, objects: int) -> None:
        self._api, self._operator, self._statuses, self._objects = api, operator, statuses, objects

    async def settle(self) -> dict[str, Any]:
        """From the first object made to the last one stable and served."""
        say(f"making {self._objects} ModelDeployments")
        cost = Cost(self._operator)
        for team in range(TEAMS):
            await self._api.write("POST", "/api/v1/namespaces", {"metadata": {"name": f"team-{team}"}})
        slots = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._make(number, slots) for number in range(self._objects)))
        made = cost.seconds()
        await self._until(lambda status: serves(status, 1), cost)
        return {"made_seconds": made, **cost.figures()}

    async def rest(self, mlflow: MlflowServer, seconds: int) -> dict[str, Any]:
        """What happens while nothing is to be done."""
        await asyncio.sleep(POLL_INTERVAL)
        say(f"at rest for {seconds} s")
        cost, since, searched = Cost(self._operator), datetime.now(UTC), registry.searches(mlflow)
        await asyncio.sleep(seconds)
        writes = [name_of(entry) for entry in self._written(since)]
        counted = {name: writes.count(name) for name in sorted(set(writes))}
        searched = registry.searches(mlflow) - searched
        return {**cost.figures(), "audited_writes": counted, "searches": searched, "poll_interval": POLL_INTERVAL}

    async def promote(self) -> dict[str, Any]:
        """From the move of all aliases to the last second version that serves everyone."""
        cost = Cost(self._operator)
        await self._until(lambda status: serves(status, 2), cost)
        return {"holds_seconds": HELD_SECONDS, **cost.figures()}

    def _written(self, since: datetime) -> list[Object]:
        return [
            entry
            for entry in entries(stage.FOLDER / "audit.log")
            if self._operator.credential in entry["user"].get("extra", {}).get(operator_process.CREDENTIAL, ())
            and datetime.fromisoformat(entry["requestReceivedTimestamp"]) >= since
        ]

    async def _make(self, number: int, slots: asyncio.Semaphore) -> None:
        namespace, name = f"team-{number % TEAMS}", f"model-{number:04d}"
        body = {
            "apiVersion": OWNER.api_version,
            "kind": OWNER.kind,
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"model": {"name": name, "alias": "prod"}, "rollout": HOLDS},
        }
        async with slots:
            await self._api.write("POST", path_of(OWNER, namespace), body)

    async def _until(self, done: Callable[[Object], bool], cost: "Cost") -> None:
        """Raises TimeoutError after half an hour."""
        shown = 0.0
        async with asyncio.timeout(PATIENCE):
            while True:
                count = self._statuses.count(done)
                if count == self._objects:
                    say(f"{count} of {self._objects} after {cost.seconds():.0f} s")
                    return
                if cost.seconds() - shown >= 10:
                    shown = cost.seconds()
                    say(f"{count} of {self._objects} after {shown:.0f} s, {self._operator.resident_mib():.0f} MiB")
                await asyncio.sleep(LOOK_SECONDS)


class Cost:
    """Time, CPU, memory, passes and writes from now on."""

    def __init__(self, operator: stage.Operator) -> None:
        self._operator = operator
        self._began, self._cpu, self._series = time.monotonic(), operator.cpu_seconds(), operator.series()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def figures(self) -> dict[str, Any]:
        seconds, cpu = self.seconds(), self._operator.cpu_seconds() - self._cpu
        now = self._operator.series()
        grown = {name: int(value - self._series.get(name, 0)) for name, value in now.items()}
        return {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "peak_mib": round(self._operator.peak_mib()),
            "resident_mib": round(self._operator.resident_mib()),
            "passes": of("modelramp_reconcile_passes_total", grown),
            "writes": of("modelramp_api_writes_total", grown),
        }


def of(name: str, grown: dict[str, int]) -> dict[str, int]:
    return {key.removeprefix(name).strip(): value for key, value in grown.items() if key.startswith(name) and value}


def serves(status: Object, version: int) -> bool:
    stable = status.get("stable") or {}
    return status.get("phase") == "Stable" and stable.get("version") == version


def name_of(entry: Object) -> str:
    about = entry["objectRef"]
    return "/".join(filter(None, (f"{entry['verb']} {about['resource']}", about.get("subresource"))))


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
