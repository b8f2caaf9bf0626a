"""docs/rollouts.md is what people read at three in the morning: it knows every word that the operator says, shows each,
and what it shows of kubectl is what the operator writes."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from modelramp.adapters import faults
from modelramp.api.status import Cause, Phase
from modelramp.domain.commands import VERBS
from modelramp.domain.conditions import ABNORMAL
from tests.unit.happenings import HAPPENS, happen
from tests.unit.played import PAGE, ROOT, Stage, blocks, is_head
from tests.unit.scenes import SCENES

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


@cache
def every_word() -> set[str]:
    """Phases, reasons, events, conditions and commands."""
    conditions = {"".join(part.capitalize() for part in rule.__name__.split("_")) for rule in ABNORMAL}
    named = {*(phase.value for phase in Phase), *(cause.value for cause in Cause)}
    return ({*spoken()} | named | conditions | faults.MODELS_OWN | set(VERBS)) - KUBELETS


def test_every_word_that_is_told_is_explained() -> None:
    assert len(every_word()) > 90, "what tells them has other names now"
    assert sorted(every_word() - explained()) == []


# What kubectl shows

NOT_PLAYED = {
    "Progressing": "a condition's reason beside an empty status.reason, which no pass of this release writes",
}
TABLES = {
    "phase": {"PHASE"},
    "reason": {"REASON", "CONDITION REASON"},
    "condition": {"CONDITION"},
    "event": {"TYPE REASON", "ACTION"},
    "action": {"ACTION"},
    "verb": {"$"},
}
"""Under which column heads the words of each table are to be seen."""


def columns(head: str, line: str) -> Iterator[tuple[str, str]]:
    """Each cell, under the head whose place it has."""
    heads = list(re.finditer(r"\w+", head))
    ends = [*(each.start() for each in heads[1:]), None]
    first = f"{heads[0][0]} " if heads[0][0] in ("TYPE", "CONDITION", "ACTION") else ""
    for each, end in zip(heads, ends, strict=True):
        yield (each[0] if each is heads[0] else first + each[0]), line[each.start() : end].strip()


def told() -> dict[str, set[str]]:
    """All that the page shows, by column; under ``$`` the verbs of the commands."""
    found: dict[str, set[str]] = {}
    for lines in blocks().values():
        head = ""
        for line in lines:
            head = line if is_head(line) else head
            commands = [("$", verb) for verb in re.findall(r"^\$ .*modelramp\.dev/(\w+)=", line)]
            for column, text in commands if line[0] in "#$" else columns(head, line):
                found.setdefault(column, set()).add(text)
    return found


def entries() -> Iterator[tuple[str, set[str]]]:
    """Table, and the words that one of its rows explains."""
    for name, table in re.findall(rf"^\| ({'|'.join(TABLES)}) \|.*\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE):
        for row in table.splitlines()[1:]:
            yield name, set(re.findall(r"\b(?:[A-Z]+[a-z]+)+\b|^ [a-z]+ $", row.split("|")[1]))


def test_every_word_that_is_told_is_shown() -> None:
    assert sorted(every_word() - set().union(*told().values())) == sorted(NOT_PLAYED)


def test_every_row_of_the_tables_is_shown() -> None:
    """One of kubelet's many words stands for the others of its row."""
    shown = {table: set().union(*(told()[column] for column in where)) for table, where in TABLES.items()}
    rows = [(table, {word.strip() for word in words}) for table, words in entries() if words]
    assert {table for table, _ in rows} == set(TABLES)
    assert [(table, words) for table, words in rows if not words & shown[table]] == []


@pytest.mark.parametrize("name", SCENES)
async def test_what_the_page_shows_is_what_people_see(name: str) -> None:
    """In this order, though not every line."""
    stage, head = Stage(SCENES[name]), ""
    for line in blocks()[name]:
        if line.startswith("# "):
            happen(stage, line.removeprefix("# "))
            await stage.advance()
        elif line.startswith("$ "):
            await stage.obey(line.removeprefix("$ "))
        elif is_head(line):
            head = " ".join(line.split())
        else:
            await stage.until(head, line)


def test_no_scene_and_nothing_that_may_happen_is_left_over() -> None:
    assert set(blocks()) == set(SCENES)
    words = [line.removeprefix("# ") for lines in blocks().values() for line in lines if line[0] == "#"]
    assert [pattern for pattern in HAPPENS if not any(re.fullmatch(pattern, it) for it in words)] == []
