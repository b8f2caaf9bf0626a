"""Records what this release writes, for the next one to be tested on: ``python -m tests.integration.record_release``.

On a control plane of its own an object comes to have all kinds of children: version 1 was stable, 2 serves, 3 was
rejected, 4 has ten percent and a pause. Kept are the CRD, spec and status, and each child's body as it was applied.
"""

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.adapters.observe import OWNER
from modelramp.domain.world import Pod
from modelramp.ports import Key, Kind, Object
from tests.integration.conftest import FOLDER, ROOT, cluster, kubectl
from tests.integration.engine_here import EngineHere, filled, serves
from tests.integration.stand_in_node import StandInNode

RELEASES = Path(__file__).parent / "releases"
CRD = ROOT / "crds" / "modeldeployments.yaml"
NAMESPACE = "recorded"
SPEC: Object = {
    "model": {"name": "digits", "alias": "prod"},
    "server": {"resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}, "warmup": 2},
    "scaling": {"minReplicas": 2, "maxReplicas": 4},
    "rollout": {
        "steps": [{"weight": 10, "hold": "5s"}, {"pause": {}}, {"weight": 50, "hold": "5s"}],
        "bake": "5s",
        "scaleDownDelay": "5s",
    },
    "traffic": {"service": {"port": 80, "annotations": {"example.com/team": "shop"}}},
}


class RecordingCluster(KubeCluster):
    """Remembers the body last applied of each child, and the size set."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.applied: dict[tuple[str, str], Object] = {}
        self.sizes: dict[str, int] = {}

    async def apply(self, body: Object) -> Object:
        self.applied[body["kind"], body["metadata"]["name"]] = body
        return await super().apply(body)

    async def scale(self, kind: Kind, key: Key, replicas: int) -> None:
        self.sizes[key.name] = replicas
        await super().scale(kind, key, replicas)

    async def delete(self, kind: Kind, key: Key, uid: str) -> None:
        self.applied.pop((kind.kind, key.name), None)
        self.sizes.pop(key.name, None)
        await super().delete(kind, key, uid)


async def command(api: KubeApi, key: Key, verb: str, revision: str, nonce: int) -> None:
    body = {"metadata": {"annotations": {f"modelramp.dev/{verb}": f"{revision}#{nonce}"}}}
    await api.write("PATCH", path_of(OWNER, *key), body, MERGE_PATCH)


def paused(candidate: int) -> Any:
    return lambda status: status.get("reason") == "PauseStep" and status["candidate"]["version"] == candidate


async def live(engine: EngineHere) -> Object:
    """What the docstring above tells; the object at its end."""
    engine.step = 2.0
    await engine.until(serves(1))
    engine.answers.alias = 2
    owner = await engine.until(paused(2))
    await command(engine.api, engine.key, "resume", owner["status"]["candidate"]["revision"], 1)
    await engine.until(lambda status: serves(2)(status) and not status.get("draining"))
    engine.answers.alias = 3
    owner = await engine.until(paused(3))
    await command(engine.api, engine.key, "abort", owner["status"]["candidate"]["revision"], 1)
    await engine.until(lambda status: serves(2)(status) and status["reason"] == "Rejected")
    engine.answers.alias = 4
    return await engine.until(paused(4))


def splits(pods: tuple[Pod, ...]) -> dict[str, str]:
    """The split of each revision's pods, where they have one."""
    return {pod.revision: pod.split for pod in pods if pod.split}


async def record() -> Object:
    api = await KubeApi.connect(FOLDER / "kubeconfig")
    key = Key(NAMESPACE, "digits")
    try:
        await api.write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        metadata = {"name": key.name, "namespace": key.namespace}
        body = {"apiVersion": OWNER.api_version, "kind": OWNER.kind, "metadata": metadata, "spec": SPEC}
        await api.write("POST", path_of(OWNER, key.namespace), body)
        async with StandInNode(api, NAMESPACE).running(), filled(api, NAMESPACE) as cache:
            engine = EngineHere(api, cache, key, kind=RecordingCluster)
            owner = await live(engine)
            seen = await engine.cluster.observe(key)
        assert isinstance(engine.cluster, RecordingCluster)
        return {
            "release": version("modelramp"),
            "now": engine.clock.now().isoformat(),
            "crd": yaml.safe_load(CRD.read_text()),
            "uid": owner["metadata"]["uid"],
            "spec": SPEC,
            "status": owner["status"],
            "children": list(engine.cluster.applied.values()),
            "sizes": engine.cluster.sizes,
            "splits": splits(seen.world.pods),
        }
    finally:
        await api.close()


def main() -> None:
    cluster("up", "--control-plane-only")
    try:
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
        kubectl("wait", "--for=condition=Established", "crd/modeldeployments.modelramp.dev", "--timeout=30s")
        recorded = asyncio.run(record())
    finally:
        cluster("down")
    path = RELEASES / f"{recorded['release']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
