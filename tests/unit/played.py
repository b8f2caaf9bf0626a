"""Plays what docs/rollouts.md shows: a block of it is the script, and each of its lines must come about, in this order.

``# words`` is something that happens (`scenes.HAPPENS`), ``$ kubectl ...`` a command of the reader's; a line of column
heads says what is looked at from there on; all others are what kubectl shows of it.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.unit.simulation import Behaviour, Operator, SimulatedWorld, spec

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/rollouts.md").read_text()
CRD = yaml.safe_load((ROOT / "crds/modeldeployments.yaml").read_text())
COLUMNS = {
    column["name"].upper(): column["jsonPath"]
    for column in CRD["spec"]["versions"][0]["additionalPrinterColumns"]
    if column["name"] != "Age"
}
EVENTS, CONDITIONS, HISTORY = "TYPE REASON MESSAGE", "CONDITION STATUS REASON MESSAGE", "ACTION REASON VERSION MESSAGE"
BEFORE = 10.0  # seconds until the alias names version 2
PATIENCE = 300.0  # seconds in which a line must come about
STEPS: list[dict[str, Any]] = [{"weight": 10, "hold": "1m"}, {"weight": 50, "hold": "1m"}]


@dataclass
class Scene:
    """A world in which version 1 serves, and what is asked for after it."""

    rollout: dict[str, Any] = field(default_factory=dict)
    later: dict[int, Behaviour] = field(default_factory=dict)
    asks: bool = True  # for version 2, by itself
    world: Callable[[dict[str, Any]], SimulatedWorld] = SimulatedWorld
    prepare: Callable[["Stage"], None] = lambda stage: None


class Stage:
    """A scene while it is played."""

    def __init__(self, scene: Scene) -> None:
        self.world = scene.world(spec(**{"steps": STEPS, "bake": "1m", **scene.rollout}))
        self.world.behaviours.update(scene.later)
        self.options: dict[str, Any] = {}  # of the operator
        scene.prepare(self)
        self.starts_anew()
        self.asks_at = self.world.time + BEFORE if scene.asks else None
        self.told = 0  # events that the page has shown

    def starts_anew(self) -> None:
        self.operator = Operator(self.world, **self.options)

    async def advance(self, tick: float = 0.5) -> None:
        if self.asks_at is not None and self.world.time >= self.asks_at:
            self.world.aliases["prod"], self.asks_at = 2, None
        await self.operator.step_if_due()
        self.world.tick(tick)

    def look(self, head: str) -> list[str]:
        """What is seen now under these column heads."""
        status = self.world.status
        if head == EVENTS:
            return [f"{it.type} {it.reason} {it.message}" for it in self.world.events[self.told :]]
        if head == CONDITIONS:
            return [f"{c['type']} {c['status']} {c['reason']} {c['message']}" for c in status.get("conditions", ())]
        if head == HISTORY:
            entries = status.get("history", ())
            return [f"{h['action']} {h['reason']} {h['version']} {h['message']}" for h in entries]
        paths = [COLUMNS.get(name) for name in head.split() if name != "NAME"]
        assert all(paths), f"no column heads: {head}"
        cells = [cell(status, path) for path in paths if path]
        return [" ".join([*(["digits"] if head.startswith("NAME ") else []), *cells])]

    async def until(self, head: str, row: str) -> str:
        """The line as it is seen when it comes about; ``row`` as in `matches`."""
        end = self.world.time + PATIENCE
        while True:
            for place, line in enumerate(self.look(head)):
                if matches(row, line):
                    self.told += place + 1 if head == EVENTS else 0
                    return line
            seen = "\n".join(self.look(head))
            assert self.world.time < end, f"never shown, or not then: {row}\nat the end there was:\n{seen}"
            await self.advance()

    async def obey(self, command: str) -> None:
        """Of kubectl: annotate, and patch of the spec."""
        words = shlex.split(command)
        if words[:2] == ["kubectl", "annotate"]:
            verb, _, value = words[-1].removeprefix("modelramp.dev/").partition("=")
            self.world.command(verb, re.sub(r"\$(\w+)", lambda named: self.revision(named[1]), value))
        else:
            assert words[:4] == ["kubectl", "patch", "mdep", "digits"], command
            changes = json.loads(words[-1])["spec"]
            assert self.world.owner is not None
            before = self.world.owner["spec"]
            self.world.edit(**{name: merged(before.get(name), value) for name, value in changes.items()})
        await self.advance()

    def revision(self, named: str) -> str:
        """`$rev`, `$rejected` or `$former`, as the page's part on commands says."""
        status = self.world.status
        chosen = status["candidate"] if named == "rev" else status[named][-1]
        return str(chosen["revision"])


def merged(before: Any, after: Any) -> Any:
    """A JSON merge patch, one level deep."""
    return {**before, **after} if isinstance(before, dict) and isinstance(after, dict) else after


def cell(status: dict[str, Any], path: str) -> str:
    """One printer column; kubectl leaves it empty where there is nothing."""
    found: Any = {"status": status}
    for name, kind in re.findall(r"\.(\w+)|\[\?\(@\.type==\"(\w+)\"\)\]", path):
        of_kind = [each for each in found or () if each["type"] == kind] if kind else []
        found = next(iter(of_kind), None) if kind else (found or {}).get(name)
    return "" if found is None else str(found)


def matches(row: str, line: str) -> bool:
    return anonymous(row) == anonymous(line)


def anonymous(line: str) -> str:
    """Its spaces as one, and whatever the revisions are called."""
    return re.sub(r"\b[0-9a-f]{8}\b", "REVISION", " ".join(line.split()))


def blocks() -> dict[str, list[str]]:
    """The page's blocks of kubectl's output, by the name of what is played."""
    found = re.findall(r"<!-- played: ([a-z ]+) -->\n```\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(found) == len({name for name, _ in found}), "two blocks have one name"
    return {name: block.splitlines() for name, block in found}


def is_head(line: str) -> bool:
    return re.fullmatch(r"[A-Z ]+", line) is not None
