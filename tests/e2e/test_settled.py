"""An object at rest stays at rest: nothing in its namespace changes, and the operator writes nothing there, whatever
other tests do meanwhile."""

import json
import time
from pathlib import Path

import pytest

from examples.digits import stage as stages
from examples.digits.kube import wait
from tests.e2e.scene import Scene

AT_REST = 300.0  # seconds
GRACE = 20.0  # for events of the pods' start, and probes
OPERATOR = f"system:serviceaccount:{stages.SYSTEM}:{stages.OPERATOR}"


def test_nothing_is_written_about_an_object_at_rest(scene: Scene) -> None:
    scene.begin(1, replicas=1)
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
    entries = (json.loads(line) for line in log.read_text().splitlines())
    return [
        f"{entry['verb']} {entry['requestURI']}"
        for entry in entries
        if entry["user"]["username"] == OPERATOR
        and entry["requestReceivedTimestamp"] >= moment
        and entry.get("objectRef", {}).get("namespace") == namespace
    ]
