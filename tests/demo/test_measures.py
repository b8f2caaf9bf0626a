"""What the demo claims about a rollout follows from the answers and the status, and from nothing else."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from examples.digits import figures, picture
from examples.digits.answers import Answer, Tail, by_version, tally
from examples.digits.display import Screen
from examples.digits.kube import documents
from examples.digits.measures import Held, Span, harm, held, share
from examples.digits.story import Story
from examples.digits.watch import Change, Event, StoryBroken, World
from modelramp.api.base import parse_duration
from modelramp.api.spec import Spec
from modelramp.api.status import (
    CandidateStatus,
    Cause,
    EvidenceStatus,
    Phase,
    Rejected,
    StableStatus,
    Status,
    StepStatus,
    TrafficStatus,
    Verdict,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
STABLE, CANDIDATE = "aaaaaaaa", "bbbbbbbb"
EXAMPLE = Path(__file__).parents[2] / "examples/digits/modeldeployment.yaml"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def epoch(seconds: float) -> float:
    return at(seconds).timestamp()


def ramping(index: int, weight: int, entered: float, in_force: float | None, split: int | None = None) -> Status:
    since = at(in_force) if in_force is not None else None
    return Status(
        phase=Phase.RAMPING,
        reason="Holding",
        stable=StableStatus(revision=STABLE, version=1, since=START),
        candidate=CandidateStatus(revision=CANDIDATE, version=2, cause=Cause.ALIAS, started_at=START),
        step=StepStatus(index=index, entered_at=at(entered), weight=weight, in_force_since=since),
        traffic=TrafficStatus(generation=1, weight=weight if split is None else split),
    )


def changes(*pairs: tuple[float, Status]) -> list[Change]:
    return [Change(epoch(seen), status) for seen, status in pairs]


def answer(sent: float, version: int = 1, net: str = "", status: int = 200, took: float = 0.01) -> Answer:
    revision = {1: STABLE, 2: CANDIDATE}.get(version, "")
    return Answer(epoch(sent), took, status, revision, version, net, correct=True)


RAMP = changes(
    (0.5, ramping(0, 10, 0, None, split=0)),
    (1.5, ramping(0, 10, 0, None)),
    (3.0, ramping(0, 10, 0, 2.9)),
    (8.0, ramping(0, 10, 0, 2.9)),
    (13.2, ramping(1, 50, 13.0, None, split=10)),
    (15.0, ramping(1, 50, 13.0, 14.8)),
    (24.0, Status(stable=StableStatus(revision=CANDIDATE, version=2, since=at(23.9)), phase=Phase.STABLE)),
)


def test_a_weight_is_held_from_when_it_is_in_force_to_the_decision_on_the_next() -> None:
    assert held(RAMP, 2) == [
        Held(10, CANDIDATE, (Span(epoch(2.9), epoch(13.0)),)),
        Held(50, CANDIDATE, (Span(epoch(14.8), epoch(24.0)),)),
    ]
    assert held(RAMP, 3) == []


def test_a_weight_whose_pods_were_lost_for_a_while_is_held_once_and_measured_while_it_was_in_force() -> None:
    lost = changes((6.0, ramping(0, 10, 0, None)), (8.0, ramping(0, 10, 0, 7.5)))
    first, second = held([*RAMP[:3], *lost, *RAMP[4:]], 2)
    assert first == Held(10, CANDIDATE, (Span(epoch(2.9), epoch(6.0)), Span(epoch(7.5), epoch(13.0))))
    assert second.weight == 50
    measured = share([answer(5, 2), answer(7, 1), answer(8, 1), answer(13.5, 1)], first)
    assert (measured.answers, measured.percent) == (2, 50.0)


def test_an_aborted_step_ends_when_the_weight_is_taken_back() -> None:
    aborted = ramping(0, 10, 0, 2.9, split=0).model_copy(update={"phase": Phase.ABORTING})
    assert held(changes((3.0, ramping(0, 10, 0, 2.9)), (9.0, aborted)), 2) == [
        Held(10, CANDIDATE, (Span(epoch(2.9), epoch(9.0)),))
    ]


def test_the_share_counts_only_answers_wholly_inside_and_what_was_dealt_to_the_candidate() -> None:
    weight = Held(50, CANDIDATE, (Span(epoch(10), epoch(20)),))
    answers = [
        answer(9.999, 2),  # sent before
        answer(10.5, 2),
        answer(11, 1),
        answer(12, 1, net="status"),  # dealt to the candidate, given by stable
        answer(13, 2),
        answer(14, 0, status=0),
        answer(19.995, 2),  # done after
    ]
    measured = share(answers, weight)
    assert (measured.answers, measured.percent, measured.off_by) == (4, 75.0, 25.0)
    assert share([], weight).percent == 0.0


def test_harm_lasts_from_the_first_bad_answer_to_weight_nought_in_force() -> None:
    rejected = Rejected(revision=CANDIDATE, version=2, reason="AnalysisFailed", message="", at=at(9))
    after = Status(rejected=[rejected])
    seen = changes((1, ramping(0, 10, 0, None)), (9.1, after))
    answers = [answer(2, 2), answer(3, 1), answer(4, 1, net="full"), answer(5, 1, net="status"), answer(6, 2)]
    done = harm(answers, seen, 2)
    assert done is not None
    assert (done.handed, done.bad) == (3, 1)
    assert done.seconds == pytest.approx(9 - 5.01)
    assert harm(answers[:3], seen, 2) is None
    assert harm(answers, seen[:1], 2) is None


def test_the_tail_gives_each_answer_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    first, second = answer(1), Answer(epoch(2), 0.5, 503, error="full")
    path.write_text(first.line() + second.line()[:10])
    assert tail.read() == [first]
    with path.open("a") as file:
        file.write(second.line()[10:])
    assert tail.read() == [second]
    assert tail.read() == []


def test_a_tally_counts_failures_and_what_stable_caught() -> None:
    counted = tally([answer(1), answer(2, 1, "slow"), answer(3, 0, status=0), answer(4, 2)])
    assert (counted.answers, counted.failed, counted.caught, counted.right) == (4, 1, 1, 4)
    assert tally([]).accuracy is None
    assert list(by_version([answer(1, 2), answer(2, 1), answer(3, 0, status=500)])) == [1, 2]


def test_what_is_shortened_is_told_with_its_default() -> None:
    (document,) = documents(EXAMPLE)
    spec = Spec.model_validate(document["spec"])
    told = figures.shortened(spec)
    assert "bake 5s (1m)" in told
    assert told.endswith("The analysis runs with the shipped defaults.")
    rollout = spec.rollout.model_copy(update={"analysis": spec.rollout.analysis.model_copy(update={"alpha": 0.2})})
    assert "NOT" in figures.shortened(spec.model_copy(update={"rollout": rollout}))


def world() -> World:
    it = World()
    evidence = EvidenceStatus(
        metric="errors",
        verdict=Verdict.INCONCLUSIVE,
        requests=100,
        bad=1,
        stable_requests=900,
        requests_needed=257,
        seconds_needed=12,
    )
    it.see(ramping(0, 10, 0, 2.9).model_copy(update={"evidence": [evidence]}))
    it.answers += [answer(3 + index / 10, 2 if index % 10 == 0 else 1) for index in range(100)]
    it.events.append(Event(epoch(1), "Warning", "Aborting", "so many failed"))
    return it


def test_the_display_shows_sides_weight_verdict_and_events() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(Screen(console, world(), "shortened"))
    text = console.export_text()
    for expected in ("candidate", "1 of 100 (1.00 %)", "10 % in force", "257 more good", "Aborting", "0 failed"):
        assert expected in text


def test_shares_are_of_late() -> None:
    sides = figures.sides(world(), epoch(13))
    assert [(side.version, side.role, round(side.share)) for side in sides] == [
        (1, "stable", 90),
        (2, "candidate", 10),
    ]


def test_a_wait_ends_with_what_stands_instead() -> None:
    with pytest.raises(StoryBroken, match="version 9: not within 0 s; the status says Ramping, Holding"):
        world().wait("version 9", 0, lambda status: status.stable is None)


def test_a_wait_since_a_moment_finds_what_has_passed_meanwhile() -> None:
    it = world()
    begun = len(it.changes)
    it.see(ramping(0, 10, 0, None))
    it.see(ramping(0, 10, 0, 9.0))
    assert it.wait("lost", 0, lost, since=begun) is it.changes[begun].status
    with pytest.raises(StoryBroken):
        it.wait("lost", 0, lost)


def lost(status: Status) -> bool:
    return status.step is not None and status.step.in_force_since is None


def test_the_story_holds_only_if_every_claim_came_true() -> None:
    (document,) = documents(EXAMPLE)
    told: list[str] = []
    story = Story(Spec.model_validate(document["spec"]), world(), lambda version: None, told.append)
    assert not story.held
    story.finish()
    assert story.held
    assert parse_duration("40s") == story.spec.rollout.progress_deadline
    story.world.answers.append(answer(20, 0, status=503))
    story.finish()
    assert not story.held
    assert told[-1].startswith("✗ 1 failed client requests in 101")


def test_the_picture_is_one_svg_element() -> None:
    drawn = picture.draw(world().answers, [picture.Moment(epoch(4), "alias → 2")])
    assert drawn.startswith("<svg")
    assert picture.draw([], []) == ""
