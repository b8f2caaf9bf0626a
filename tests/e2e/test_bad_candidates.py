"""Candidates that only live requests show to be broken, under traffic: found by their errors, and no request fails."""

import time

import pytest

from examples.digits.kube import Body, wait
from tests.e2e.scene import QUICK, READY, Scene, rejected

# what lets a version pass that no client can ask: the gate on inputs would have caught it
TRUSTING: Body = {**QUICK, "gates": {"inputs": "Any"}}


@pytest.mark.parametrize("name", ["hanging", "renamed"])
def test_a_candidate_that(scene: Scene, bad: dict[str, int], name: str) -> None:
    """hanging: never answers a real image. renamed: answers 4xx to every client, since its input has another name."""
    version = bad[name]
    scene.begin(1, TRUSTING, replicas=2)
    with scene.clients():
        scene.move(version)
        scene.world.wait(f"version {version} rejected", READY + 120, rejected(version))
        begun = time.time()
        wait("answers of version 1 alone", 60, lambda: scene.world.answers[-1].sent > begun + 3)
        assert {a.version for a in scene.world.answers if a.sent > begun + 1} == {1}
    reasons = {r.version: r.reason for r in scene.status().rejected}
    assert reasons[version] == "AnalysisFailed"
    nets = {a.net for a in scene.world.answers if a.net}
    assert nets & ({"slow", "status"} if name == "hanging" else {"disagrees"})
