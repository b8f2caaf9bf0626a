"""MLflow's `params`: what a client tells a model beside its inputs, checked against the model's signature.

MLflow converts int to float and long, and nothing else; params that the signature lacks it drops with a warning in
the server's log. Here they are refused: their sender would never read that log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from modelramp_server.protocol.errors import BadRequest

_INT32, _INT64 = 2**31, 2**63


def _whole(limit: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and -limit <= value < limit


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _text(value: Any) -> bool:
    return isinstance(value, str)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": _whole(_INT32),
    "long": _whole(_INT64),
    "float": _number,
    "double": _number,
    "string": _text,
    "datetime": _text,
    "object": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One param of a signature: MLflow's type, default, and whether it is a list of that type."""

    name: str
    kind: str
    default: Any
    is_list: bool


@dataclass(frozen=True, slots=True)
class Params:
    """The params of a model. `used` is False where its runtime has no use for them: then they are only checked."""

    specs: tuple[ParamSpec, ...] = ()
    used: bool = False

    def canonical(self, given: object) -> bytes:
        """What the model is to be told: canonical JSON with every param, or b"" where that is the defaults.

        Args:
            given: the request's `params`, as parsed.

        Raises:
            BadRequest: unknown, or of another type.
        """
        if given is None or given == {}:
            return b""
        if not isinstance(given, dict):
            raise BadRequest("params must be an object")
        known = {spec.name: spec for spec in self.specs}
        for name, value in given.items():
            if name not in known:
                raise BadRequest(f"params: the model takes no {name!r}; it takes {sorted(known) or 'none'}")
            _check(value, known[name])
        defaults = {spec.name: spec.default for spec in self.specs}
        told = {**defaults, **given}
        return orjson.dumps(told, option=orjson.OPT_SORT_KEYS) if self.used and told != defaults else b""


def read(entries: Sequence[Mapping[str, Any]]) -> tuple[ParamSpec, ...]:
    """The params of a signature as MLmodel has them."""
    return tuple(
        ParamSpec(
            str(entry["name"]),
            str(entry.get("type") or entry.get("dtype")),
            entry.get("default"),
            entry.get("shape") is not None,
        )
        for entry in entries
        if "name" in entry
    )


def _check(value: Any, spec: ParamSpec) -> None:
    if value is None:
        return
    fits = _KINDS.get(spec.kind, lambda value: True)
    if spec.is_list:
        if not isinstance(value, list) or not all(map(fits, value)):
            raise BadRequest(f"params.{spec.name} must be a list of {spec.kind}")
    elif not fits(value):
        raise BadRequest(f"params.{spec.name} must be of type {spec.kind}")
