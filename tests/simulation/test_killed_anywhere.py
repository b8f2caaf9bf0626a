"""The operator killed before and after each of its writes: the same history, the same children, nothing extra."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.gateway_world import GatewayWorld
from tests.unit.simulation import SPEC, Behaviour, Killed, Operator, SimulatedWorld

STEPS = 160


async def live(new: Callable[[], SimulatedWorld], bad_rate: float, **kill: int) -> tuple[SimulatedWorld, bool]:
    """A rollout of version 2 after version 1; the operator is killed once where `kill` says, and begins anew."""
    world = new()
    world.behaviours[2] = Behaviour(bad_rate=bad_rate)
    for name, index in kill.items():
        setattr(world, name, index)
    operator, died = Operator(world), False
    for step in range(STEPS):
        if step == 20:
            world.aliases["prod"] = 2
        try:
            await operator.step_if_due()
        except Killed:
            world.kill_before = world.kill_after = None
            operator, died = Operator(world), True
        world.tick(0.5)
    return world, died


def outcome(world: SimulatedWorld) -> dict[str, Any]:
    return {
        "history": [(h["action"], h["reason"], h["version"], h["attempt"]) for h in world.status["history"]],
        "children": sorted((kind.kind, name) for kind, name in world.children),
        "phase": world.status["phase"],
        "stable": world.status["stable"]["version"],
        "rejected": [r["version"] for r in world.status.get("rejected", [])],
        "pods": len(world.pods),
        "failed": world.failed if isinstance(world, GatewayWorld) else 0,
    }


@pytest.mark.parametrize("bad_rate", [0.0, 0.1], ids=["promoted", "rejected"])
@pytest.mark.parametrize("when", ["kill_before", "kill_after", "conflict_at"])
@pytest.mark.parametrize("new", [lambda: SimulatedWorld(SPEC), GatewayWorld], ids=["relay", "gateway"])
async def test_the_same_end_wherever_it_is_cut_off(
    new: Callable[[], SimulatedWorld], bad_rate: float, when: str
) -> None:
    undisturbed, _ = await live(new, bad_rate)
    expected = outcome(undisturbed)
    assert expected["phase"] == "Stable" and expected["failed"] == 0 and len(expected["history"]) >= 4
    died = 0
    for index in range(len(undisturbed.writes)):
        world, killed = await live(new, bad_rate, **{when: index})
        died += killed
        assert outcome(world) == expected, f"{when} write {index}: {undisturbed.writes[index]}"
    assert died == (len(undisturbed.writes) if when != "conflict_at" else 0)
