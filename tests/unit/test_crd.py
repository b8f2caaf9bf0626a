"""The CRD in the repository takes every status that the operator writes, whole: the API server would drop a field that
it does not know, and refuse a value of another form, and the rollout would go on without its memory."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from modelramp.api.status import Status
from tests.unit.simulation import run
from tests.unit.test_shadow import BOUND, begun

CRD = yaml.safe_load((Path(__file__).resolve().parents[2] / "crds/modeldeployments.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
SIMPLE: dict[type, Any] = {
    str: "a",
    int: 1,
    float: 0.5,
    bool: True,
    datetime: datetime(2026, 1, 1, tzinfo=UTC),
    timedelta: timedelta(seconds=1),
}
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}


def some(annotation: Any) -> Any:
    """A value of a field's type, with everything in it that may be."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return some(next(each for each in arguments if each is not type(None)))
    if origin is list:
        return [some(arguments[0])]
    if origin is dict:
        return {"key": some(arguments[1])}
    if hasattr(annotation, "__metadata__"):
        return some(arguments[0])
    if issubclass(annotation, BaseModel):
        return annotation(**{name: some(field.annotation) for name, field in annotation.model_fields.items()})
    return list(annotation)[-1] if issubclass(annotation, Enum) else SIMPLE[annotation]


def objections(value: Any, schema: dict[str, Any], path: str = "status") -> Iterator[str]:
    """What the API server would drop or refuse."""
    if not isinstance(value, TYPES[schema["type"]]):
        yield f"{path} is no {schema['type']}: {value!r}"
    elif value not in schema.get("enum", [value]):
        yield f"{path} may not be {value!r}"
    elif isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        yield from (f"{path} lacks {name}" for name in schema.get("required", ()) if name not in value)
        for name, each in value.items():
            below = known.get(name, others)
            yield from objections(each, below, f"{path}.{name}") if below else [f"{path}.{name} is not known"]
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from objections(each, schema["items"], f"{path}[{index}]")


def test_every_field_of_the_status_is_kept() -> None:
    status = some(Status).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert {"service", "guard", "suspendedSince", "queuedAt", "backOff"} <= status.keys()
    assert list(objections(status, SCHEMA)) == []
    assert Status.model_validate(status) == some(Status)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unheardOf": 1}, "status.unheardOf is not known"),
        ({"phase": "Dreaming"}, "status.phase may not be 'Dreaming'"),
        ({"step": {"index": 0.5, "enteredAt": "2026-01-01T00:00:00Z"}}, "status.step.index is no integer: 0.5"),
        ({"history": [{"at": "2026-01-01T00:00:00Z"}]}, "status.history[0] lacks action"),
    ],
)
def test_what_the_api_server_would_drop_is_noticed(change: dict[str, Any], said: str) -> None:
    assert said in list(objections(change, SCHEMA))


async def test_what_is_written_in_a_rollout_is_kept() -> None:
    """With every metric, in a shadow and on live requests."""
    analysis = {"objectives": {"latency": {}, "drift": {"max": 0.3}}}
    world, operator = await begun(shadow=BOUND, analysis=analysis)
    metrics = set()
    for _ in range(60):
        await run(world, operator, 1)
        metrics |= {each["metric"] for each in world.status["evidence"]}
        assert list(objections(world.status, SCHEMA)) == []
    assert metrics == {"errors", "latency", "drift", "disagreement"}
