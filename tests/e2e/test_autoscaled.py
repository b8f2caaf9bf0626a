"""A promotion at ten replicas, under an autoscaler that agrees with ten: never fewer pods behind the Service."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from examples.digits import stage as stages
from examples.digits.kube import Body, wait
from examples.digits.names import OBJECT
from examples.digits.story import serves
from tests.e2e.scene import QUICK, READY, Scene

SIZE = 10
START = 300.0  # seconds for ten pods on a small machine
# One percent of 10m: any traffic at all asks for more pods than there may be.
BUSY: Body = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 1}},
}
ROLLOUT: Body = {**QUICK, "progressDeadline": "10m"}


@contextmanager
def smallest(scene: Scene) -> Iterator[list[int]]:
    """How many endpoints were ready behind the main Service, seen twice a second."""
    seen: list[int] = []
    stop = threading.Event()
    watching = threading.Thread(target=_count, args=(scene, seen, stop), daemon=True)
    watching.start()
    yield seen
    stop.set()
    watching.join()


def _count(scene: Scene, seen: list[int], stop: threading.Event) -> None:
    while not stop.wait(0.5):
        seen.append(scene.kube.endpoints(scene.namespace, scene.service))


def wants(scene: Scene) -> int:
    """What the autoscaler wants, once it may want less and has measured: 0 before that."""
    scaler = scene.kube.autoscaling.read_namespaced_horizontal_pod_autoscaler(OBJECT, scene.namespace)
    measured = scaler.spec.min_replicas < SIZE and any(m.resource for m in scaler.status.current_metrics or ())
    return int(scaler.status.desired_replicas) if measured else 0


def test_ten_pods_stay_ten(scene: Scene) -> None:
    stages.cluster("up", "--with", "metrics-server")
    scene.move(1)
    scene.apply(ROLLOUT, minReplicas=SIZE, maxReplicas=SIZE, metrics=[BUSY])
    scene.world.wait("version 1 serves", START, serves(1))
    with scene.clients():
        scene.apply(ROLLOUT, minReplicas=2, maxReplicas=SIZE, metrics=[BUSY])
        wait("the autoscaler to want ten by itself", START, lambda: wants(scene) == SIZE, pause=1.0)
        scene.move(2)
        scene.world.wait("version 2 in hand", READY, lambda s: s.candidate is not None)
        with smallest(scene) as seen:
            status = scene.world.wait("version 2 promoted", READY + START, serves(2))
            assert status.stable is not None
            pods = scene.pods(status.stable.revision)
            # until the former revision is gone, and the autoscaler has looked at the new one more than once
            wait("the former pods to go", 120, lambda: scene.all_pods() == pods, pause=1.0)
            looks = len(seen)
            wait("32 s of looking", 90, lambda: len(seen) >= looks + 64, pause=1.0)
        assert min(seen) >= SIZE
        assert scene.pods(status.stable.revision) == pods
        assert len(pods) == SIZE
    scaler = scene.kube.autoscaling.read_namespaced_horizontal_pod_autoscaler(OBJECT, scene.namespace)
    assert scaler.spec.scale_target_ref.name == f"{OBJECT}-{status.stable.revision}"
