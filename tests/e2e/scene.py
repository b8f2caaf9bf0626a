"""A ModelDeployment of the demo's models in a namespace of its own, its alias, its clients, all that was seen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from examples.digits import stage as stages
from examples.digits.answers import Answer, Tail, tally
from examples.digits.kube import GROUP, PLURAL, VERSION, Body, Kube, wait
from examples.digits.names import OBJECT
from examples.digits.stage import Stage
from examples.digits.story import serves
from examples.digits.watch import Watcher, World
from modelramp.api.status import Status

NAME = f"modelramp.dev/name={OBJECT}"
QUICK: Body = {
    "steps": [{"weight": 50, "hold": "3s"}],
    "bake": "3s",
    "progressDeadline": "2m",
    "scaleDownDelay": "5s",
}
LITTLE: Body = {"requests": {"cpu": "10m", "memory": "128Mi"}}
UNSTEADY, OWN_PORT = "unsteady", 5001
"""A registry that is the same MLflow, at a port that can be shut without a word to other modules' objects."""
REGISTRIES: Body = {
    **stages.REGISTRIES,
    UNSTEADY: {"uri": stages.REGISTRIES["default"]["uri"].replace("5000", str(OWN_PORT))},
}
ONNX_MODEL = "digits-onnx"
"""Registered by onnx_models.py; its versions 1 to 3 are the demo's."""
RUNS_TRITON = bool(re.fullmatch(r"python3\.(9|1[0-2])", Path("/usr/bin/python3").resolve().name))
"""Whether PyTriton's wheel has a Triton for the system's Python, which is the images' too."""
READY = 300.0  # seconds for pods to start on a busy machine, the poll of the registry included
RATE = 60.0  # requests a second


class Scene:
    """Opened, it is an empty namespace; `begin` makes the object serve a first version."""

    model = ONNX_MODEL

    def __init__(self, stage: Stage, namespace: str) -> None:
        self.stage, self.namespace, self.kube = stage, namespace, stage.kube
        self.world = World()
        self.answers = stages.OUTCOME / f"{namespace}.jsonl"
        self._watcher = Watcher(stage.kube, namespace, OBJECT, self.world)
        self.service = OBJECT  # that clients call
        self.registry = "default"
        self._published = False

    def open(self) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata: Body = {"name": self.namespace, "labels": labels}
        self.kube.fresh_namespace({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.answers.unlink(missing_ok=True)
        self._watcher.start(Tail(self.answers))

    def close(self) -> None:
        self._watcher.stop()
        if self._published:
            stages.cluster("unpublish", f"{self.namespace}/{self.service}")
        self.kube.remove_namespace(self.namespace)

    def move(self, version: int) -> None:
        self.stage.alias(version, self.namespace, self.model)

    def apply(self, rollout: Body | None = None, **scaling: Any) -> None:
        model = {"name": self.model, "alias": self.namespace, "registry": self.registry}
        spec = {
            "model": model,
            "server": self.server(),
            "scaling": scaling,
            "rollout": rollout or QUICK,
            "traffic": self.traffic(),
        }
        metadata: Body = {"name": OBJECT}
        body: Body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "ModelDeployment",
            "metadata": metadata,
            "spec": spec,
        }
        self.kube.apply([body], self.namespace)

    def command(self, verb: str, revision: str) -> None:
        """As `kubectl annotate --overwrite mdep` gives it."""
        self.annotate(**{verb: f"{revision}#{time.time_ns()}"})

    def annotate(self, **annotations: str | None) -> None:
        """Annotations of modelramp.dev; `_` stands for `-`, and None takes one off."""
        named = {f"{GROUP}/{name.replace('_', '-')}": value for name, value in annotations.items()}
        body: Body = {"metadata": {"annotations": named}}
        where = (GROUP, VERSION, self.namespace, PLURAL, OBJECT)
        self.kube.custom.patch_namespaced_custom_object(*where, body)

    def orphan(self) -> None:
        """Delete the object, and nothing that it owns."""
        where = (GROUP, VERSION, self.namespace, PLURAL, OBJECT)
        self.kube.custom.delete_namespaced_custom_object(*where, propagation_policy="Orphan")
        listed = self.kube.custom.list_namespaced_custom_object
        wait("the object to be gone", 60, lambda: not listed(*where[:-1])["items"])

    def begin(self, version: int, rollout: Body | None = None, **scaling: Any) -> None:
        self.move(version)
        self.apply(rollout, **scaling)
        self.world.wait(f"version {version} serves", READY, serves(version))

    def server(self) -> Body:
        """`spec.server`."""
        return {"resources": LITTLE}

    def traffic(self) -> Body:
        """`spec.traffic`."""
        return {}

    def url(self) -> str:
        """The Service on loopback."""
        self._published = True
        return self.stage.service(self.namespace, self.service)

    @contextmanager
    def clients(self, rate: float = RATE) -> Iterator[None]:
        """Constant traffic; when it ends, none of its requests may have failed."""
        begun = len(self.world.answers)
        with stages.traffic(self.url(), self.answers, rate, self.model):
            wait("the clients' first answers", 60, lambda: len(self.world.answers) > begun + rate)
            yield
        wait("the clients' last answers", 10, lambda: self._all_read())
        failed = [answer for answer in self.world.answers if answer.failed]
        assert not failed, f"{len(failed)} of {tally(self.world.answers).answers} failed, the first: {failed[0]}"

    def _all_read(self) -> bool:
        with self.answers.open() as file:
            return len(self.world.answers) >= sum(1 for _ in file)

    def since(self, moment: float) -> list[Answer]:
        """Answers to requests that were sent after it (seconds since the epoch), as far as they have been read."""
        return [answer for answer in self.world.answers if answer.sent > moment]

    def revisions_from_now(self) -> set[str]:
        """Who answers what is sent in the next seconds."""
        now = time.time()
        wait("further answers", 60, lambda: len(self.since(now)) > 5 * RATE)
        return {answer.revision for answer in self.since(now)}

    def status(self) -> Status:
        return self.world.status

    def pods(self, revision: str) -> set[str]:
        """UIDs of the pods of a revision that are not on their way out."""
        chosen = f"{NAME},modelramp.dev/revision={revision}"
        pods = self.kube.core.list_namespaced_pod(self.namespace, label_selector=chosen).items
        return {pod.metadata.uid for pod in pods if pod.metadata.deletion_timestamp is None}

    def all_pods(self) -> set[str]:
        """UIDs of the pods of all revisions."""
        pods = self.kube.core.list_namespaced_pod(self.namespace, label_selector=NAME).items
        return {pod.metadata.uid for pod in pods}

    def objects(self) -> dict[str, str]:
        """resourceVersion of everything in the namespace that the operator makes or reads, by kind and name. The
        kubelet's Events are left out: one probe that a busy machine lets fail says nothing of the operator."""
        core, apps = self.kube.core, self.kube.apps
        lists: dict[str, Any] = {
            "Pod": core.list_namespaced_pod,
            "Service": core.list_namespaced_service,
            "Event": partial(core.list_namespaced_event, field_selector="source!=kubelet"),
            "Deployment": apps.list_namespaced_deployment,
            "ReplicaSet": apps.list_namespaced_replica_set,
            "ControllerRevision": apps.list_namespaced_controller_revision,
        }
        found = {
            f"{kind}/{item.metadata.name}": item.metadata.resource_version
            for kind, listing in lists.items()
            for item in listing(self.namespace).items
        }
        own = self.kube.custom.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, OBJECT)
        return found | {"ModelDeployment": own["metadata"]["resourceVersion"]}

    def history(self) -> list[tuple[str, int]]:
        """Decisions, in order: action and version."""
        return [(entry.action, entry.version) for entry in self.status().history]


def operator_pods(kube: Kube) -> list[Any]:
    """Of the installed operator; those on their way out too, in which it may still run."""
    chosen = "app.kubernetes.io/component=operator"
    return list(kube.core.list_namespaced_pod(stages.SYSTEM, label_selector=chosen).items)


def rejected(version: int) -> Callable[[Status], bool]:
    return lambda status: status.candidate is None and any(r.version == version for r in status.rejected)
