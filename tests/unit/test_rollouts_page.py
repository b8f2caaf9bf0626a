"""docs/rollouts.md is what people read at three in the morning: it knows every word that the operator says, and what it
shows of kubectl is what the operator writes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelramp.adapters import faults
from modelramp.api.status import Cause, Phase
from modelramp.domain.commands import VERBS
from modelramp.domain.conditions import ABNORMAL
from modelramp.domain.world import Fault
from tests.unit.simulation import Behaviour, Operator, SimulatedWorld, spec

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/rollouts.md").read_text()
WORD = re.compile(r"([A-Z][a-z]+)+")
SEVERAL = re.compile(r"([A-Z]+[a-z]+){2,}")
TELLS = {
    *("say", "tell", "record", "record_candidate", "_condition", "abort", "fail", "failed", "release", "pause", "back"),
    *("commit", "reject", "waiting", "short_of_pods", "AbortStatus", "Event", "Fault", "_infrastructure", "Unresolved"),
    "Trouble",
}
"""What passes a reason on to a person. Elsewhere in the core a word of several parts is taken for a reason too."""
NO_REASONS = {"Kind", "TypeVar", "get", "Field"}
KUBELETS = {"False", "True", "Normal", "Warning"}
CORE = ("domain", "routers", "engine", "edge")


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The module's own names for strings."""
    for statement in tree.body:
        match statement:
            case ast.Assign([ast.Name(name)], ast.Constant(str(text))):
                yield name, text
            case ast.Assign([ast.Tuple(names)], ast.Tuple(values)):
                pairs = zip(names, values, strict=True)
                yield from ((n.id, v.value) for n, v in pairs if isinstance(v, ast.Constant) and type(v.value) is str)


def arguments(call: ast.Call) -> Iterator[ast.expr]:
    """Both sides of a condition count."""
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        match argument:
            case ast.IfExp(_, one, other):
                yield from (one, other)
            case ast.BoolOp(_, several):
                yield from several
            case _:
                yield argument


def spoken() -> Iterator[str]:
    """Every word that some call passes on as a reason, an action or a condition's type, or that has a name."""
    files = {path: ast.parse(path.read_text()) for path in (ROOT / "operator/modelramp").rglob("*.py")}
    named = dict(pair for tree in files.values() for pair in constants(tree))
    for path, tree in files.items():
        if path.parent.name in CORE:
            yield from (text for _, text in constants(tree) if SEVERAL.fullmatch(text))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in NO_REASONS or (name not in TELLS and path.parent.name not in CORE):
                continue
            reason = WORD if name in TELLS else SEVERAL
            for argument in arguments(call):
                text = argument.value if isinstance(argument, ast.Constant) else named.get(getattr(argument, "id", ""))
                if isinstance(text, str) and reason.fullmatch(text):
                    yield text


def explained() -> set[str]:
    """The words of the tables' cells."""
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    return {word for row in rows for word in re.findall(r"\w+", row)}


def test_every_word_that_is_told_is_explained() -> None:
    words = {*spoken(), *(phase.value for phase in Phase), *(cause.value for cause in Cause)} - KUBELETS
    assert len(words) > 70, "what tells them has other names now"
    assert sorted(words - explained()) == []


def test_faults_of_the_model_and_conditions_and_commands_are_explained() -> None:
    conditions = {"".join(part.capitalize() for part in rule.__name__.split("_")) for rule in ABNORMAL}
    assert conditions | faults.MODELS_OWN | set(VERBS) <= explained()


# What kubectl shows

COLUMNS = yaml.safe_load((ROOT / "crds/modeldeployments.yaml").read_text())["spec"]["versions"][0][
    "additionalPrinterColumns"
]


def cell(status: dict[str, Any], path: str) -> str:
    """One printer column; kubectl leaves it empty where there is nothing."""
    found: Any = {"status": status}
    for name, kind in re.findall(r"\.(\w+)|\[\?\(@\.type==\"(\w+)\"\)\]", path):
        of_kind = [each for each in found or () if each["type"] == kind] if kind else []
        found = next(iter(of_kind), None) if kind else (found or {}).get(name)
    return "" if found is None else str(found)


def shown(status: dict[str, Any]) -> str:
    """The line of `kubectl get mdep -o wide`, without the age."""
    cells = ["digits", *(cell(status, c["jsonPath"]) for c in COLUMNS if c["name"] != "Age")]
    return " ".join(cells)


LATER = {
    "fails": Behaviour(bad_rate=0.1),
    "no room": Behaviour(
        fault=Fault("Unschedulable", "0/3 nodes are available: insufficient memory", models_own=False)
    ),
    "does not load": Behaviour(fault=Fault("LoadFailed", "model.onnx: unsupported opset 99", models_own=True)),
}
STEPS: list[dict[str, Any]] = [{"weight": 10, "hold": "1m"}, {"weight": 50, "hold": "1m"}]
APPROVAL = {"pause": {"approval": "release"}}


class Watched:
    """Version 2 after version 1, under steps as shipped; what kubectl would show meanwhile."""

    def __init__(self, name: str) -> None:
        steps = [STEPS[0], APPROVAL, STEPS[1]] if name == "approved" else STEPS
        self.world = SimulatedWorld(spec(steps=steps, bake="1m"))
        self.world.behaviours[2] = LATER.get(name, Behaviour())
        self.operator = Operator(self.world)
        self.lines: list[str] = []

    async def work(self, seconds: float) -> None:
        end = self.world.time + seconds
        while self.world.time < end:
            await self.operator.step_if_due()
            self.lines.append(shown(self.world.status))
            self.world.tick(0.5)

    def command(self, verb: str) -> None:
        status = self.world.status
        target = status.get("candidate") or status["former"][0]
        self.world.command(verb, f"{target['revision']}#1")


async def play(name: str) -> tuple[list[str], list[str]]:
    """What kubectl shows of the object, and of its events."""
    watched = Watched(name)
    await watched.work(10)
    watched.world.aliases["prod"] = 2
    await watched.work(100)
    if name == "approved":
        watched.command("approve")
    await watched.work(200)
    if name == "rolled back":
        watched.command("rollback")
        await watched.work(60)
    events = [f"{event.type} {event.reason} {event.message}" for event in watched.world.events]
    return watched.lines, events


def anonymous(line: str) -> str:
    """Its spaces as one, and whatever the revisions are called."""
    return re.sub(r"\b[0-9a-f]{8}\b", "REVISION", " ".join(line.split()))


def examples() -> dict[str, list[str]]:
    """The page's blocks of kubectl's output, by the name of what is played."""
    found = re.findall(r"<!-- played: ([a-z ]+) -->\n```\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found, "docs/rollouts.md shows nothing"
    return {name: [anonymous(line) for line in block.splitlines()] for name, block in found}


@pytest.mark.parametrize("name", ["promoted", "fails", "approved", "no room", "does not load", "rolled back"])
async def test_what_the_page_shows_is_what_people_see(name: str) -> None:
    """In this order, though not every line."""
    head, *rows = examples()[name]
    lines, events = await play(name)
    is_event = head == "TYPE REASON MESSAGE"
    assert is_event or head == " ".join(["NAME", *(c["name"].upper() for c in COLUMNS if c["name"] != "Age")])
    seen = map(anonymous, events if is_event else lines)
    for row in rows:
        assert row in seen, f"never shown, or not then: {row}"
