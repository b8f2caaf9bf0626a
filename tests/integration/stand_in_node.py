"""A stand-in for a node: pods get scheduled to it by the real scheduler, and become what a script says.

There is no kubelet in the integration tier. This does of it what the operator can see: it sets pods' status, and lets
go of pods that are being deleted. Nothing listens at the addresses that it gives them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from typing import Any

from modelramp.adapters.cache import POD
from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.ports import ClusterError, Conflict, Object

NODE = "stand-in"
POLL_SECONDS = 0.3
HEARTBEAT_SECONDS = 10.0
CAPACITY = {"cpu": "1000", "memory": "1000Gi", "pods": "10000"}


class Behaviour(StrEnum):
    """What becomes of the pods of a version."""

    READY = "ready"
    NEVER_READY = "never ready"
    CRASH_LOOP = "crash loop"
    LOAD_FAILED = "load failed"
    IMAGE_PULL_ERROR = "image pull error"


@dataclass
class StandInNode:
    """Runs pods of one namespace. ``script`` says how, by the registry's version; others become ready."""

    api: KubeApi
    namespace: str
    script: dict[int, Behaviour] = field(default_factory=dict)
    _addresses: Any = field(default_factory=lambda: count(1))
    _shown: dict[str, Behaviour] = field(default_factory=dict)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["StandInNode"]:
        """Registers the node, and acts until the block is left."""
        await self._register()
        tasks = [asyncio.create_task(self._act_for_ever()), asyncio.create_task(self._beat_for_ever())]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def act(self) -> None:
        """One round over all pods: brings each to what the script says."""
        listed = await self.api.read(path_of(POD, self.namespace))
        for pod in listed["items"] or ():
            # It may be gone, or deleted by somebody else, since it was listed.
            with suppress(Conflict), ignoring_missing():
                await self._act_on(pod)

    async def _act_on(self, pod: Object) -> None:
        metadata = pod["metadata"]
        path = path_of(POD, self.namespace, metadata["name"])
        if "deletionTimestamp" in metadata:
            await self.api.write("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}})
            return
        behaviour = self.script.get(version_of(pod), Behaviour.READY)
        if pod["spec"].get("nodeName") != NODE or self._shown.get(metadata["uid"]) is behaviour:
            return
        status = status_of(behaviour, pod, f"192.0.2.{next(self._addresses) % 254 + 1}")
        await self.api.write("PATCH", f"{path}/status", {"status": status}, MERGE_PATCH)
        self._shown[metadata["uid"]] = behaviour

    async def _act_for_ever(self) -> None:
        while True:
            await self.act()
            await asyncio.sleep(POLL_SECONDS)

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._beat()

    async def _register(self) -> None:
        with suppress(Conflict):
            await self.api.write("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        await self._beat()

    async def _beat(self) -> None:
        ready = condition("Ready", "True") | {"lastHeartbeatTime": now(), "reason": "StandIn"}
        status = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [ready]}
        await self.api.write("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, MERGE_PATCH)


def status_of(behaviour: Behaviour, pod: Object, address: str) -> Object:
    """What a kubelet would report."""
    ready = behaviour is Behaviour.READY
    flag = "True" if ready else "False"
    return {
        "phase": "Pending" if behaviour is Behaviour.IMAGE_PULL_ERROR else "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now(),
        "conditions": [
            condition("PodScheduled", "True"),
            condition("Initialized", "True"),
            condition("ContainersReady", flag),
            condition("Ready", flag),
        ],
        "containerStatuses": [container_status(behaviour, pod)],
    }


def container_status(behaviour: Behaviour, pod: Object) -> Object:
    image = pod["spec"]["containers"][0]["image"]
    base = {"name": "server", "image": image, "imageID": image, "restartCount": 0, "ready": False}
    running: Mapping[str, Any] = {"running": {"startedAt": now()}}
    match behaviour:
        case Behaviour.READY:
            return {**base, "ready": True, "started": True, "state": running}
        case Behaviour.NEVER_READY:
            return {**base, "started": True, "state": running}
        case Behaviour.IMAGE_PULL_ERROR:
            return {**base, "state": {"waiting": {"reason": "ErrImagePull", "message": f"{image}: not found"}}}
        case Behaviour.LOAD_FAILED:
            said = json.dumps({"reason": "LoadFailed", "message": "the model cannot be read"})
            return {**base, "restartCount": 1, "state": running, "lastState": ended(said)}
        case Behaviour.CRASH_LOOP:
            backing_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
            return {**base, "restartCount": 3, "state": backing_off, "lastState": ended("")}


def ended(message: str) -> Object:
    return {"terminated": {"exitCode": 1, "reason": "Error", "message": message, "finishedAt": now()}}


def condition(kind: str, status: str) -> Object:
    return {"type": kind, "status": status, "lastTransitionTime": now()}


def version_of(pod: Object) -> int:
    """The registry's version that the pod is to serve; 0 for a pod of somebody else's."""
    for container in pod["spec"]["containers"]:
        for variable in container.get("env", ()):
            if variable["name"] == "MODEL_VERSION":
                return int(variable["value"])
    return 0


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ignoring_missing:  # noqa: N801, used like contextlib.suppress
    """Suppresses a ClusterError that says 404."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return isinstance(error, ClusterError) and error.status == 404
