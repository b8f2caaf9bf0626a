"""A version that is worse without a single error is taken back by a bound on drift; a better one is promoted."""

from examples.digits.story import serves
from modelramp.api.status import EvidenceStatus, Status, Verdict
from tests.e2e.scene import QUICK, READY, Scene, rejected

LIMIT = 0.2
CERTAIN = 60.0  # seconds; eight looks of 5 s at least
BOUND = {**QUICK, "analysis": {"objectives": {"drift": {"max": LIMIT}}}}


def drift(status: Status) -> EvidenceStatus | None:
    return next((e for e in status.evidence if e.metric == "drift"), None)


def test_a_silently_worse_version_is_taken_back_with_the_numbers(scene: Scene, bad: dict[str, int]) -> None:
    silently_wrong = bad["silently wrong"]
    scene.begin(1, BOUND, replicas=1)
    with scene.clients():
        begun = len(scene.world.answers)
        scene.move(silently_wrong)
        status = scene.world.wait(
            "the silently wrong version rejected",
            READY + CERTAIN,
            rejected(silently_wrong),
        )
        answered = {answer.version for answer in scene.world.answers[begun:]}
    entry = status.rejected[-1]
    assert entry.reason == "AnalysisFailed"
    assert entry.message.startswith("drift: ")
    assert "class 0: " in entry.message
    assert f"more than {LIMIT} with confidence" in entry.message
    assert answered == {1, silently_wrong}
    assert serves(1)(status)


def test_a_better_version_is_promoted_under_the_same_bound(scene: Scene) -> None:
    with scene.clients():
        begun = len(scene.world.changes)
        scene.move(2)
        scene.world.wait("version 2 promoted", READY + CERTAIN, serves(2))
        seen = [drift(change.status) for change in scene.world.changes[begun:]]
    passed = [told for told in seen if told is not None and told.verdict is Verdict.PASS]
    assert passed, "the promotion took a certificate"
    assert passed[-1].distance is not None
    assert passed[-1].distance < LIMIT
