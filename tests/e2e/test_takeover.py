"""A Service with clients, served by somebody's own Deployment, is taken over by an object: no request fails."""

from typing import Any

from examples.digits import stage as stages
from examples.digits.kube import Body, wait
from examples.digits.story import serves
from modelramp.api.server import Server
from modelramp.api.status import Status
from modelramp.desired.meta import Owner
from modelramp.desired.template import Rendering, pod_template
from modelramp.domain.world import ModelVersion
from tests.e2e.scene import ONNX_MODEL, READY, Scene

SERVICE, OLD, OLD_REVISION = "classify", {"app": "own-digits"}, "00000000"
RATE = 60.0


def own(scene: Scene) -> list[Body]:
    """What a person had before: a Deployment of a digits server, and a Service that leads to its port by number."""
    version = ModelVersion("default", ONNX_MODEL, 1, "", "", 0)
    rendering = Rendering("localhost/modelramp-server:dev", stages.REGISTRIES["default"]["uri"])
    server = Server(resources={"requests": {"cpu": "10m", "memory": "128Mi"}})
    template = pod_template(Owner(scene.namespace, "own", ""), OLD_REVISION, version, server, None, rendering)
    template["metadata"] = {"labels": OLD}
    deployment = {"replicas": 1, "selector": {"matchLabels": OLD}, "template": template}
    service = {"selector": OLD, "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "own-digits"}, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE}, "spec": service},
    ]


def selector(scene: Scene) -> dict[str, str]:
    chosen: dict[str, str] = scene.kube.core.read_namespaced_service(SERVICE, scene.namespace).spec.selector
    return chosen


def adopted(status: Status) -> bool:
    return status.service is not None and status.service.since is not None


def own_pods(scene: Scene) -> list[Any]:
    return list(scene.kube.core.list_namespaced_pod(scene.namespace, label_selector="app=own-digits").items)


def test_name_and_clients_stay_and_nothing_is_lost(scene: Scene) -> None:
    deployment, service = own(scene)
    scene.kube.apply([deployment, service], scene.namespace)
    scene.kube.await_deployment(scene.namespace, "own-digits", READY)
    scene.service = SERVICE
    with scene.clients(RATE):
        assert {a.revision for a in scene.world.answers} == {OLD_REVISION}
        scene.begin(1, replicas=2)
        assert selector(scene) == OLD, "nothing is taken that is not asked for"
        scene.annotate(adopt_service=SERVICE)
        status = scene.world.wait("the Service taken over", READY, adopted)
        assert status.stable is not None
        ours = status.stable.revision
        wait("the selector", 30, lambda: selector(scene).get("modelramp.dev/revision") == ours)
        scene.kube.apps.delete_namespaced_deployment("own-digits", scene.namespace)
        wait("the former pods to go", 120, lambda: not own_pods(scene))
        assert scene.revisions_from_now() == {ours}
        scene.move(2)
        promoted = scene.world.wait("version 2 promoted", READY, serves(2))
        assert promoted.stable is not None
        theirs = promoted.stable.revision  # the status is written first, then the Service
        wait("the selector", 30, lambda: selector(scene).get("modelramp.dev/revision") == theirs)


def test_given_back_it_leads_where_it_led(scene: Scene) -> None:
    deployment, _ = own(scene)
    scene.kube.apply([deployment], scene.namespace)
    scene.kube.await_deployment(scene.namespace, "own-digits", READY)
    with scene.clients(RATE):
        scene.annotate(adopt_service=None)
        wait("the former selector", 30, lambda: selector(scene) == OLD)
        scene.kube.custom.delete_namespaced_custom_object(
            "modelramp.dev", "v1alpha1", scene.namespace, "modeldeployments", "digits"
        )
        begun = len(scene.world.answers)
        wait(
            "answers of the former pods alone",
            120,
            lambda: (
                len(scene.world.answers) > begun + RATE
                and {a.revision for a in scene.world.answers[-int(RATE) :]} == {OLD_REVISION}
            ),
        )
