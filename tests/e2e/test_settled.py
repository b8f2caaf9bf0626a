"""An object at rest stays at rest: nothing in its namespace changes, and the operator writes nothing there, whatever
other tests do meanwhile. Its pods ask everybody for a key, the operator too."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from examples.digits import stage as stages
from examples.digits.kube import Body, wait
from examples.digits.stage import Stage
from examples.digits.traffic import read
from modelramp_server.security import api_keys
from tests.audit_log import entries
from tests.e2e.scene import Scene

AT_REST = 300.0  # seconds
GRACE = 20.0  # for events of the pods' start, and probes
OPERATOR = f"system:serviceaccount:{stages.SYSTEM}:{stages.OPERATOR}"


KEY = api_keys.new_key()


class GuardedScene(Scene):
    """Whose pods let nobody in without a key, not even for metadata or metrics."""

    def open(self) -> None:
        super().open()
        entries = {"keys": api_keys.entry("client", KEY)}
        secret: Body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": entries}
        self.kube.apply([secret], self.namespace)

    def server(self) -> Body:
        folder = "/etc/modelramp-keys"
        return {
            **super().server(),
            "env": [{"name": "API_KEYS_FILE", "value": f"{folder}/keys"}, {"name": "AUTH_OPEN", "value": ""}],
            "volumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
            "volumeMounts": [{"name": "keys", "mountPath": folder, "readOnly": True}],
        }


@pytest.fixture(scope="module")
def scene(stage: Stage, _turn: None) -> Iterator[GuardedScene]:
    scene = GuardedScene(stage, "e2e-settled")
    scene.open()
    scene.begin(1, replicas=1)
    yield scene
    scene.close()


def test_pods_that_ask_for_keys_are_tried_before_they_serve(scene: GuardedScene) -> None:
    events = scene.world.events
    wait("word of the gates", 20, lambda: any(event.reason == "GatePassed" for event in events))
    assert ["smoke example" in event.message for event in events if event.reason == "GatePassed"] == [True]
    image, _ = read(stages.IMAGES)[0]
    infer = f"{scene.url()}/v2/models/{scene.model}/infer"
    with urllib.request.urlopen(urllib.request.Request(infer, image, {"x-api-key": KEY}), timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(HTTPError, match="401"):
        urllib.request.urlopen(infer, image, timeout=10)


def test_nothing_is_written_about_an_object_at_rest(scene: GuardedScene) -> None:
    begun = time.time() + GRACE
    wait("what the start of pods brings with it", GRACE + 10, lambda: time.time() >= begun, pause=1.0)
    before = scene.objects()
    wait("the object to have been at rest", AT_REST + 60, lambda: time.time() >= begun + AT_REST, pause=1.0)
    changed = {name for name, version in scene.objects().items() if before.get(name) != version}
    assert not changed
    assert not writes(scene.namespace, begun)


def writes(namespace: str, since: float) -> list[str]:
    """What the operator wrote there, from the API server's audit log."""
    log = Path(stages.cluster("kubeconfig")).parent / "audit.log"
    if not log.exists():
        pytest.skip("this cluster keeps no audit log here: only resourceVersions were compared")
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    return [
        f"{entry['verb']} {entry['requestURI']}"
        for entry in entries(log)
        if entry["user"]["username"] == OPERATOR
        and entry["requestReceivedTimestamp"] >= moment
        and entry.get("objectRef", {}).get("namespace") == namespace
    ]
