"""Who gets which split in a rollout: sticky ones, pods born in the middle, and servers that know no split."""

import json
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from modelramp.desired.split import split
from modelramp.domain.freeze import Freeze
from modelramp.engine.fleet import Fleet
from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld, run, serves, serving, spec, until

QUICK: dict[str, Any] = {"steps": [{"weight": 10, "hold": "10s"}, {"weight": 50, "hold": "10s"}]}


def at(weight: int) -> Any:
    """The weight is in force."""
    return lambda status: (status.get("step") or {}).get("inForceSince") and status["traffic"]["weight"] == weight


def stable_pods(world: SimulatedWorld) -> list[Any]:
    return [pod for pod in world.pods.values() if pod.revision == world.status["stable"]["revision"]]


async def test_a_sticky_split_names_its_header_in_lower_case() -> None:
    world, operator = await serving({**SPEC, "traffic": {"stickiness": {"header": "X-User"}}})
    await until(world, operator, at(10))
    splits = [json.loads(pod.split) for pod in stable_pods(world)]
    assert [s["header"] for s in splits] == ["x-user"] * 2
    salt = splits[0]["salt"]
    await until(world, operator, at(50))
    assert {json.loads(pod.split)["salt"] for pod in stable_pods(world)} == {salt}, "one attempt, one salt"


def test_a_split_without_stickiness_is_written_as_ever() -> None:
    assert "header" not in json.loads(split(1, "aaaaaaaa", 10, "s", None))


async def test_a_stable_pod_born_in_mid_ramp_takes_part_as_soon_as_it_is_ready() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "10m"}]))
    await until(world, operator, at(10))
    world.edit(scaling={"replicas": 3})
    await until(world, operator, lambda _: len(stable_pods(world)) == 3)
    born = max(stable_pods(world), key=lambda pod: pod.born)
    await until(world, operator, lambda _: world.ready(born))
    assert born.weight == 0, "it is ready before it has heard of a weight"
    generation = world.status["traffic"]["generation"]
    await run(world, operator, 2)
    assert (born.weight, born.generation) == (10, generation), "without waiting for the next renewal"


async def test_a_stable_pod_born_before_the_weight_is_in_force_is_waited_for() -> None:
    world, operator = await serving(SPEC)
    deaf = stable_pods(world)[0]
    deaf.found = 10**6  # its container has just begun anew: it obeys nothing that it found
    await until(world, operator, lambda s: s["traffic"]["weight"] == 10)
    await run(world, operator, 5)
    assert world.status["reason"] == "Splitting"
    deaf.found = 0
    await until(world, operator, at(10))


async def test_a_stable_pod_that_was_brought_no_word_of_a_weight_is_told_again() -> None:
    world, operator = await serving(SPEC)
    await until(world, operator, at(10))
    missing = stable_pods(world)[0]
    missing.found = 10**6  # what comes now, it does not hear of
    await until(world, operator, lambda s: s["traffic"]["weight"] == 50)
    missing.found, begun = world.status["traffic"]["generation"], world.time
    await until(world, operator, at(50))
    assert missing.weight == 50
    assert world.time - begun < 15, "sooner than by a renewal"


async def test_nor_does_a_candidate_keep_a_share_for_want_of_word() -> None:
    world, operator = await serving(SPEC)
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    await until(world, operator, at(10))
    missing = stable_pods(world)[0]
    missing.found = 10**6
    await until(world, operator, lambda s: s["phase"] == "Aborting")
    traffic, begun = world.status["traffic"], world.time
    missing.found = traffic["generation"]
    assert missing.weight == 10
    await run(world, operator, 11)
    assert missing.weight == 0
    await until(world, operator, lambda s: s["phase"] == "Stable")
    assert world.time - begun < 20


async def test_nor_where_a_person_is_asked_what_now() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "10s"}], onFailure="Pause"))
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    await until(world, operator, at(10))
    missing = stable_pods(world)[0]
    missing.found = 10**6
    await until(world, operator, lambda s: s["phase"] == "Paused")
    missing.found = world.status["traffic"]["generation"]
    await run(world, operator, 12)
    assert missing.weight == 0
    generation = world.status["traffic"]["generation"]
    await run(world, operator, 300)
    assert world.status["traffic"]["generation"] == generation, "all have heard"


async def test_who_says_nothing_is_not_told_more_often() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "10m"}]))
    await until(world, operator, at(10))
    world.deaf = True
    generation = world.status["traffic"]["generation"]
    await run(world, operator, 100)
    assert world.status["traffic"]["generation"] - generation <= 3


async def test_a_reminder_prolongs_nothing() -> None:
    """Of a pod that hears nothing at all, what it last heard expires."""
    world, operator = await serving(SPEC)
    world.behaviours[2] = Behaviour(bad_rate=0.5)
    await until(world, operator, at(10))
    stable_pods(world)[0].found = 10**6
    await until(world, operator, lambda s: s["phase"] == "Aborting")
    renewed, begun = world.status["traffic"]["renewedAt"], world.time
    await until(world, operator, lambda s: s["phase"] == "Stable")
    assert world.status["traffic"]["renewedAt"] == renewed
    assert 100 < world.time - begun < 130


async def unsplit(steps: list[dict[str, Any]] | None = None) -> tuple[SimulatedWorld, Operator]:
    """Version 1 is of an image that knows no split; version 2 is asked for."""
    world = SimulatedWorld(spec(**({"steps": steps} if steps else {})))
    operator = Operator(world)
    await until(world, operator, serves(1))
    for pod in world.pods.values():
        pod.split_version = 0
    world.aliases["prod"] = 2
    return world, operator


def told(world: SimulatedWorld) -> list[str]:
    return [event.reason for event in world.events]


async def test_servers_that_know_no_split_are_replaced_directly() -> None:
    world, operator = await unsplit()
    await until(world, operator, serves(2))
    await run(world, operator, 30)
    assert told(world).count("SplitUnsupported") == 1
    assert world.status["history"][-1]["reason"] == "SplitUnsupported"
    assert {p.version for p in world.pods.values()} == {2}
    world.aliases["prod"] = 3
    await until(world, operator, at(10))


async def test_gates_and_pauses_hold_all_the_same() -> None:
    steps = [{"weight": 10, "hold": "10s"}, {"pause": {}}, {"weight": 50, "hold": "10s"}]
    world, operator = await unsplit(steps)
    await until(world, operator, lambda s: s["reason"] == "PauseStep")
    await run(world, operator, 30)
    assert (world.status["reason"], world.status["stable"]["version"]) == ("PauseStep", 1)
    assert world.status["traffic"]["weight"] == 0
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, serves(2))


async def test_full_size_is_waited_for() -> None:
    world, operator = await unsplit()
    await until(world, operator, lambda s: s["phase"] == "Promoting")
    while world.status["phase"] == "Promoting":
        ready = sum(world.ready(pod) for pod in world.pods.values() if pod.version == 2)
        await operator.step()
        world.tick(0.5)
    assert serves(2)(world.status) and ready == 2


async def test_a_pod_that_is_not_heard_is_not_taken_for_one_that_knows_no_split() -> None:
    world, operator = await serving(spec(progressDeadline="10m"))
    world.deaf = True
    await until(world, operator, lambda s: s["phase"] == "Ramping")
    await run(world, operator, 60)
    assert world.status["reason"] == "Splitting" and "SplitUnsupported" not in told(world)
    assert not world.status["candidate"].get("unsplit")


async def test_it_is_remembered_by_a_new_operator_and_asked_anew_in_a_new_attempt() -> None:
    world, operator = await unsplit([{"pause": {}}, {"weight": 10, "hold": "10s"}, {"pause": {}}])
    await until(world, operator, lambda s: s["reason"] == "PauseStep")
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, lambda s: (s.get("candidate") or {}).get("unsplit"))
    for pod in stable_pods(world):
        pod.split_version = 1
    await until(world, Operator(world), lambda s: s["reason"] == "PauseStep")
    assert told(world).count("SplitUnsupported") == 1
    world.command("abort", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, lambda s: s["phase"] == "Stable")
    revision = world.status["rejected"][0]["revision"]
    world.command("retry", f"{revision}#1")
    await until(world, operator, lambda s: s["reason"] == "PauseStep")
    world.command("resume", f"{revision}#2")
    await until(world, operator, at(10))


async def test_a_command_to_promote_comes_to_the_same() -> None:
    world, operator = await unsplit([{"pause": {}}, {"weight": 10, "hold": "10s"}])
    await until(world, operator, lambda s: s["reason"] == "PauseStep")
    world.command("promote", f"{world.status['candidate']['revision']}#1")
    await until(world, operator, serves(2))
    assert "SplitUnsupported" in told(world)


async def test_a_pod_that_turns_out_in_mid_ramp_to_know_no_split_ends_the_weight() -> None:
    world, operator = await serving(spec(steps=[{"weight": 10, "hold": "10m"}]))
    await until(world, operator, at(10))
    stable_pods(world)[0].split_version = 0
    await operator.step()
    assert world.status["traffic"]["weight"] == 0 and "SplitUnsupported" in told(world)
    await until(world, operator, serves(2))


def frosty(world: SimulatedWorld) -> Operator:
    """An hour's freeze window opens in a minute."""
    begin = world.now() + timedelta(minutes=2)
    schedule = f"{begin.minute} {begin.hour} {begin.day} {begin.month} *"
    world.time = begin.timestamp() // 60 * 60 - 60
    return Operator(world, fleet=Fleet(world, None, [Freeze(schedule, timedelta(hours=1), ZoneInfo("UTC"))]))


async def test_a_freeze_window_holds_a_step_without_weight_too() -> None:
    world, _ = await unsplit([{"pause": {}}, {"weight": 10, "hold": "10s"}])
    operator = frosty(world)
    await until(world, operator, lambda s: s["reason"] == "PauseStep")
    await run(world, operator, 60)
    world.command("resume", f"{world.status['candidate']['revision']}#1")
    await run(world, operator, 600, tick=10)
    assert (world.status["reason"], world.status["stable"]["version"]) == ("Frozen", 1)
    await run(world, operator, 3600, tick=30)
    assert serves(2)(world.status)


async def test_a_freeze_window_holds_the_switch() -> None:
    world, _ = await unsplit()
    world.behaviours[2] = Behaviour(ready_after=40.0)
    operator = frosty(world)
    await until(world, operator, lambda s: s["phase"] == "Promoting")
    await run(world, operator, 300, tick=5)
    assert (world.status["reason"], world.status["stable"]["version"]) == ("Frozen", 1)
    await run(world, operator, 3600, tick=30)
    assert serves(2)(world.status)
