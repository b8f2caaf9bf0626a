"""A model that is silently worse is caught before a user meets it; a better one, by the same bound, is promoted."""

import time

from examples.digits.kube import Body
from examples.digits.story import serves
from modelramp.api.status import EvidenceStatus, Status
from tests.e2e.scene import QUICK, READY, Scene, rejected

BOUND = 0.18  # the better version differs from the fair one on about one image in ten, the wrong one on half of them
ROLLOUT: Body = {
    **QUICK,
    "steps": [{"shadow": 50, "hold": "5s"}, {"weight": 50, "hold": "3s"}],
    "shadow": {"maxDisagreement": BOUND},
}
PROOF = READY + 120.0  # seconds; a Fail takes eight looks


def compared(status: Status) -> EvidenceStatus | None:
    return next((e for e in status.evidence if e.metric == "disagreement"), None)


def shadowed(status: Status) -> bool:
    evidence = compared(status)
    return status.reason == "Shadowing" and evidence is not None and evidence.requests > 0


def test_a_silently_worse_version_is_caught_before_a_user_meets_it(scene: Scene, bad: dict[str, int]) -> None:
    scene.begin(1, ROLLOUT, replicas=1)
    version = bad["silently wrong"]
    with scene.clients():
        begun = time.time()
        scene.move(version)
        seen = scene.world.wait("copies are compared", READY, shadowed)
        assert (seen.traffic.weight, seen.traffic.shadow) == (0, 50)
        assert "0 % of users, 50 % shadowed" in seen.message
        end = scene.world.wait(
            f"version {version} rejected",
            PROOF,
            rejected(version),
        )
    assert end.rejected[-1].reason == "AnalysisFailed"
    assert "disagreement" in end.rejected[-1].message
    assert "over the bound of 18 %" in end.rejected[-1].message
    answers = scene.since(begun)
    assert {answer.version for answer in answers} == {1}, "no user was answered by it"
    assert not any(answer.net for answer in answers)


def test_a_better_version_is_promoted_by_the_same_bound(scene: Scene) -> None:
    with scene.clients():
        scene.move(2)
        passed = scene.world.wait("the first weight", PROOF, lambda s: s.traffic.weight > 0)
        evidence = compared(passed)
        assert evidence is not None
        assert evidence.rate is not None
        assert 0 < evidence.rate < BOUND, "it differs too, and is better"
        scene.world.wait("version 2 promoted", READY, serves(2))
