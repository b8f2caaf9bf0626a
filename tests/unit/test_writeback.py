"""The tags that a rollout leaves in the registry: what they say, that none is written twice, and who waits for them."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from modelramp.api.status import CandidateStatus, Cause, Rejected, StableStatus, Status
from modelramp.desired.marks import LONGEST_REASON, Mark, State, marks, tags
from modelramp.domain.world import ModelVersion, Revision
from modelramp.engine.leader import LeaseLost
from modelramp.engine.queue import WorkQueue
from modelramp.engine.registries import RegistryConfig
from modelramp.engine.writeback import WriteBack
from modelramp.ports import RegistryError
from tests.unit.simulation import KEY, SPEC, Behaviour, Operator, SimulatedWorld, run, serves, until
from tests.unit.test_queue import FakeTimers

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PREFIX = "modelramp.shop.digits."


class Writer:
    """A WriteBack whose queue is worked off when asked to; ``counted`` is how writes ended."""

    def __init__(self, world: SimulatedWorld, **config: Any) -> None:
        self.configs = {"default": RegistryConfig("http://mlflow", **{"write": True, **config})}
        self.queue, self.counted, self.leads = WorkQueue(FakeTimers()), [], True
        self.write_back = WriteBack(
            self.configs, {"default": world}, self.may_write, lambda *how: self.counted.append(how), self.queue
        )

    counted: list[tuple[str, str]]

    def may_write(self) -> None:
        if not self.leads:
            raise LeaseLost("not the leader")

    async def work(self) -> None:
        while len(self.queue):
            key = await self.queue.get()
            try:
                await self.write_back.write(key)
            finally:
                self.queue.done(key)


async def stepping(world: SimulatedWorld, operator: Operator, writer: Writer, seconds: float) -> None:
    end = world.time + seconds
    while world.time < end:
        await run(world, operator, 0.5)
        await writer.work()


def start(**config: Any) -> tuple[SimulatedWorld, Writer, Operator]:
    world = SimulatedWorld(SPEC)
    writer = Writer(world, **config)
    return world, writer, Operator(world, configs=writer.configs, write_back=writer.write_back)


def states(world: SimulatedWorld) -> dict[int, str]:
    return {version: tags[f"{PREFIX}state"] for version, tags in world.tags_of.items() if f"{PREFIX}state" in tags}


async def test_versions_are_told_what_became_of_them() -> None:
    world, writer, operator = start()
    world.tags_of[1] = {"validated": "true"}
    await stepping(world, operator, writer, 30)
    assert states(world) == {1: "stable"}
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    world.aliases["prod"] = 2
    await stepping(world, operator, writer, 8)
    assert states(world) == {1: "stable", 2: "canary"}
    await stepping(world, operator, writer, 60)
    assert states(world) == {1: "stable", 2: "rejected"}
    assert world.tags_of[2][f"{PREFIX}reason"].startswith("AnalysisFailed: ")
    world.aliases["prod"] = 3
    await stepping(world, operator, writer, 90)
    assert states(world) == {3: "stable", 2: "rejected"}
    assert world.tags_of[1] == {"validated": "true"}, "other tags stay, ours go with what they said"
    assert world.tags_of[3][f"{PREFIX}time"] == world.status["stable"]["since"]
    assert set(writer.counted) == {("default", "written")}


async def test_a_superseded_candidate_is_no_canary_any_more() -> None:
    world, writer, operator = start()
    await stepping(world, operator, writer, 30)
    world.aliases["prod"] = 2
    await stepping(world, operator, writer, 8)
    world.aliases["prod"] = 1
    await stepping(world, operator, writer, 60)
    assert states(world) == {1: "stable"} and world.tags_of[2] == {}


async def test_a_restart_writes_nothing() -> None:
    world, writer, operator = start()
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    await stepping(world, operator, writer, 30)
    world.aliases["prod"] = 2
    await stepping(world, operator, writer, 120)
    before = len(world.tag_writes)
    writer = Writer(world)
    operator = Operator(world, configs=writer.configs, write_back=writer.write_back)
    await stepping(world, operator, writer, 30)
    assert len(world.tag_writes) == before
    asked = len(world.asked)
    await stepping(world, operator, writer, 30)
    assert len(world.asked) == asked, "at rest nobody is asked"


async def test_what_a_killed_operator_did_not_take_back_its_successor_does() -> None:
    world, writer, operator = start()
    await stepping(world, operator, writer, 30)
    world.aliases["prod"] = 2
    await until(world, operator, serves(2))  # nothing of that is written any more
    assert states(world) == {1: "stable"}
    writer = Writer(world)
    await stepping(world, Operator(world, configs=writer.configs, write_back=writer.write_back), writer, 20)
    assert states(world) == {2: "stable"}


async def test_a_registry_that_refuses_holds_no_rollout_and_is_asked_again() -> None:
    world, writer, operator = start()
    await run(world, operator, 20)
    world.registry_writable = False
    with pytest.raises(RegistryError):
        await writer.work()
    assert writer.counted == [("default", "failed")]
    world.aliases["prod"] = 2
    await until(world, operator, serves(2))
    world.registry_writable = True
    await writer.work()
    assert states(world) == {2: "stable"}


async def test_the_queue_repeats_a_failed_write_later(caplog: pytest.LogCaptureFixture) -> None:
    world = SimulatedWorld(SPEC)
    writer = Writer(world)
    timers = FakeTimers()
    queue = WorkQueue(timers)
    world.registry_up = False
    back = WriteBack(writer.configs, {"default": world}, writer.may_write, lambda *_: None, queue)
    back.note(KEY, {version(1): Mark(State.STABLE, NOON)})
    await queue._run(await queue.get(), back.write)
    queue.done(KEY)
    assert len(queue) == 0
    (line,) = caplog.records
    assert "connection refused" in line.getMessage() and line.exc_info is None
    world.registry_up = True
    timers.advance(1)
    await back.write(await queue.get())
    assert states(world) == {}, "version 1 of this registry is another one"


@pytest.mark.parametrize("config", [{"write": False}, {"namespaces": ("other",)}, {"models": ("other",)}])
async def test_a_registry_that_may_not_be_written_is_not(config: dict[str, Any]) -> None:
    world, writer, operator = start(**config)
    writer.write_back.note(KEY, {version(1): Mark(State.STABLE, NOON)})
    await stepping(world, operator, writer, 10)
    assert world.tag_writes == [] and "marked" not in str(world.asked)


async def test_a_version_of_the_same_number_in_another_registry_is_not_tagged() -> None:
    world, writer, operator = start()
    await run(world, operator, 20)
    world.models_born += 5  # another registry behind the same address
    world.aliases["prod"] = 2
    await stepping(world, operator, writer, 8)
    assert states(world) == {2: "canary"}, "what serves is not its version 1"


async def test_the_tags_of_a_deleted_object_go_and_come_back_with_it() -> None:
    world, writer, operator = start()
    await stepping(world, operator, writer, 30)
    world.owner = None
    await operator.step()
    await writer.work()
    assert world.tags_of == {1: {}}
    assert writer.write_back._wanted == writer.write_back._touched == {}
    world.create()
    await stepping(world, operator, writer, 30)
    assert states(world) == {1: "stable"}


async def test_a_deletion_while_tags_are_written_is_not_forgotten() -> None:
    world, writer, _ = start()
    named = await world.version("digits", 1)
    assert named is not None
    writer.write_back.note(KEY, {named: Mark(State.STABLE, NOON)})
    key = await writer.queue.get()
    write = world.set_tags

    async def deleted_meanwhile(*args: Any) -> None:
        await write(*args)
        writer.write_back.gone(KEY)

    world.set_tags = deleted_meanwhile  # type: ignore[method-assign]
    await writer.write_back.write(key)
    writer.queue.done(key)
    assert states(world) == {1: "stable"}
    await writer.work()
    assert states(world) == {}


async def test_an_object_made_anew_while_its_tags_go_gets_its_own() -> None:
    world, writer, _ = start()
    named = await world.version("digits", 1)
    assert named is not None
    wanted = {named: Mark(State.STABLE, NOON)}
    writer.write_back.note(KEY, wanted)
    await writer.work()
    writer.write_back.gone(KEY)
    key = await writer.queue.get()
    write = world.set_tags

    async def made_meanwhile(*args: Any) -> None:
        await write(*args)
        writer.write_back.note(KEY, wanted)

    world.set_tags = made_meanwhile  # type: ignore[method-assign]
    await writer.write_back.write(key)
    writer.queue.done(key)
    assert states(world) == {}
    await writer.work()
    assert states(world) == {1: "stable"}


async def test_who_does_not_lead_any_more_writes_nothing() -> None:
    world, writer, operator = start()
    await run(world, operator, 20)
    writer.leads = False
    with pytest.raises(LeaseLost):
        await writer.work()
    assert world.tag_writes == []


def version(number: int) -> ModelVersion:
    return ModelVersion("default", "digits", number, "run", "source", number)


def test_a_version_that_serves_is_stable_whatever_else_is_tried_with_it() -> None:
    revisions = {name: Revision(name, version(int(name[1])), {}) for name in ("a1", "b1", "c1", "d2")}
    rejected = [
        Rejected(revision=name, version=1, reason="OOMKilled", message="", at=NOON) for name in ("c1", "d2", "lost")
    ]
    status = Status(
        stable=StableStatus(revision="a1", version=1, since=NOON),
        candidate=CandidateStatus(revision="b1", version=1, cause=Cause.SPEC, started_at=NOON),
        rejected=rejected,
    )
    found = marks(status, revisions)
    assert {model.version: mark.state for model, mark in found.items()} == {1: State.STABLE, 2: State.REJECTED}
    assert marks(status.model_copy(update={"stable": None}), revisions)[version(1)].state is State.CANARY
    assert marks(Status(), copy.copy(revisions)) == {}


def test_a_long_reason_is_cut_and_the_state_is_written_last() -> None:
    long = Mark(State.REJECTED, NOON, "x" * 1000)
    written = tags("shop", "digits", long)
    assert list(written) == [f"{PREFIX}{what}" for what in ("reason", "time", "state")]
    assert written[f"{PREFIX}reason"] == "x" * LONGEST_REASON
    assert set(tags("shop", "digits", None).values()) == {None}
