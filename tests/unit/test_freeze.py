"""Freeze windows: when they are open, and what a rollout still does in one."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from modelramp.domain.freeze import Freeze, frozen_until
from modelramp.engine.fleet import Fleet
from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld, run

BERLIN = ZoneInfo("Europe/Berlin")
WEEKEND = Freeze("0 18 * * 5", timedelta(hours=62), BERLIN)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-06-05T15:59:59.999999Z", None),
        ("2026-06-05T16:00:00Z", "2026-06-08T08:00+02:00"),  # Friday, 18:00 in Berlin's summer
        ("2026-06-08T05:59:59.999999Z", "2026-06-08T08:00+02:00"),
        ("2026-06-08T06:00:00Z", None),
        ("2026-01-09T16:59:59Z", None),
        ("2026-01-09T17:00:00Z", "2026-01-12T08:00+01:00"),  # the same in winter
        ("2026-10-25T12:00:00Z", "2026-10-26T07:00+01:00"),  # an hour is gained on the way: 62 hours are 62 hours
    ],
)
def test_a_window_opens_by_the_clocks_of_its_zone(now: str, end: str | None) -> None:
    assert WEEKEND.end(at(now)) == (at(end) if end else None)


def test_windows_are_for_namespaces_and_the_last_to_close_counts() -> None:
    friday = at("2026-06-05T17:00:00Z")
    night = Freeze("0 18 * * *", timedelta(hours=12), BERLIN, ("team-*",))
    assert frozen_until([WEEKEND, night], "team-a", friday) == at("2026-06-08T08:00+02:00")
    assert frozen_until([night], "team-a", friday) == at("2026-06-06T06:00+02:00")
    assert frozen_until([night], "other", friday) is None


class Frost:
    """A world whose operator knows a window that the test opens: from the next full minute, for an hour."""

    def __init__(self) -> None:
        self.world = SimulatedWorld(SPEC)
        self.operator = Operator(self.world)

    async def freeze(self) -> None:
        begin = self.world.now() + timedelta(minutes=1)
        schedule = f"{begin.minute} {begin.hour} {begin.day} {begin.month} *"
        fleet = Fleet(self.world, None, [Freeze(schedule, timedelta(hours=1), ZoneInfo("UTC"))])
        self.operator = Operator(self.world, fleet=fleet)
        self.world.time = begin.timestamp() // 60 * 60
        self.end = self.world.time + 3600

    async def run(self, seconds: float) -> None:
        await run(self.world, self.operator, seconds)

    async def ramp_to(self, weight: int) -> None:
        await self.run(10)
        self.world.aliases["prod"] = 2
        while self.world.status["traffic"]["weight"] != weight:
            await self.run(0.5)
        await self.run(2)


async def test_no_rollout_begins_in_a_window_and_it_begins_by_itself_after_it() -> None:
    frost = Frost()
    await frost.run(10)
    await frost.freeze()
    frost.world.aliases["prod"] = 2
    await frost.run(20)
    status = frost.world.status
    assert (status["phase"], status["reason"], status.get("candidate")) == ("Stable", "Frozen", None)
    assert status["message"].startswith("a freeze window is open until 1970-01-12 14:47+00:00")
    assert await frost.operator.step() == frost.end - frost.world.time, "woken when it closes"
    frost.world.time = frost.end
    await frost.run(100)
    assert frost.world.status["stable"]["version"] == 2


async def test_a_first_revision_is_not_frozen() -> None:
    frost = Frost()
    await frost.freeze()
    await frost.run(10)
    assert frost.world.status["phase"] == "Stable"


async def test_a_running_weight_is_held_and_judged_on_but_does_not_rise() -> None:
    frost = Frost()
    await frost.ramp_to(10)
    await frost.freeze()
    await frost.run(60)
    status = frost.world.status
    assert (status["phase"], status["reason"], status["traffic"]["weight"]) == ("Ramping", "Frozen", 10)
    assert status["step"]["weight"] == 10, "the next step has not begun"
    assert all(pod.weight == 10 for pod in frost.world.pods.values() if pod.version == 1), "the split is kept alive"
    before = len(frost.world.writes)
    frost.world.time = frost.end
    await frost.run(100)
    assert frost.world.status["stable"]["version"] == 2
    assert len(frost.world.writes) > before


async def test_a_rollout_that_has_just_begun_gets_no_first_weight() -> None:
    frost = Frost()
    await frost.run(10)
    frost.world.aliases["prod"] = 2
    await frost.run(1)
    assert frost.world.status["phase"] == "Gating"
    await frost.freeze()
    await frost.run(30)
    status = frost.world.status
    assert (status["phase"], status["reason"], status["traffic"]["weight"]) == ("Ramping", "Frozen", 0)


async def test_a_promotion_by_itself_waits_for_the_end_of_the_window() -> None:
    frost = Frost()
    await frost.ramp_to(50)
    await frost.freeze()
    await frost.run(60)
    assert (frost.world.status["reason"], frost.world.status["traffic"]["weight"]) == ("Frozen", 50)


async def test_a_weight_on_its_way_to_everything_does_not_rise_either_unless_a_person_says_so() -> None:
    frost = Frost()
    await frost.ramp_to(50)
    while frost.world.status["phase"] != "Promoting":
        await frost.operator.step()
        frost.world.tick(0.5)
    assert frost.world.status["traffic"]["weight"] == 50
    await frost.freeze()
    await frost.run(30)
    status = frost.world.status
    assert (status["phase"], status["reason"], status["traffic"]["weight"]) == ("Promoting", "Frozen", 50)
    frost.world.command("promote", f"{status['candidate']['revision']}#1")
    await frost.run(30)
    assert frost.world.status["stable"]["version"] == 2
    assert frost.world.time < frost.end
    assert [event.reason for event in frost.world.events].count("Promoting") == 1


async def test_a_person_may_promote_in_a_window() -> None:
    frost = Frost()
    await frost.ramp_to(10)
    await frost.freeze()
    await frost.run(20)
    frost.world.command("promote", f"{frost.world.status['candidate']['revision']}#1")
    await frost.run(30)
    assert frost.world.status["stable"]["version"] == 2
    assert frost.world.time < frost.end


async def test_a_failing_candidate_is_taken_back_in_a_window() -> None:
    frost = Frost()
    await frost.ramp_to(10)
    await frost.freeze()
    await frost.run(20)
    frost.world.behaviours[2] = Behaviour(bad_rate=0.3)
    await frost.run(30)
    assert [r["version"] for r in frost.world.status["rejected"]] == [2]


async def test_a_person_may_abort_in_a_window() -> None:
    frost = Frost()
    await frost.ramp_to(10)
    await frost.freeze()
    frost.world.command("abort", f"{frost.world.status['candidate']['revision']}#1")
    await frost.run(10)
    assert frost.world.status["rejected"][0]["reason"] == "AbortCommanded"
