"""What a client wants to be answered: its `Accept` header and the query of the path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

from modelramp_server.images.sniff import Kind
from modelramp_server.protocol.errors import BadRequest, ServingError

_OFFERED = (Kind.JSON, Kind.PNG, Kind.NPY)
_QUALITY = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)")
_PARAMETERS = ("output", "overlay", "class")
_OPACITY = 0.5
_TRUE, _FALSE = ("", "true"), ("false", "0")


@dataclass(frozen=True, slots=True)
class Wanted:
    """`output` is the one array that is asked for, "" for all; `opacity` that of an overlay, None for no overlay;
    `number` the class of a probability map."""

    kind: Kind = Kind.JSON
    output: str = ""
    opacity: float | None = None
    number: int = -1


@lru_cache(256)
def wanted(accept: str, query: str) -> Wanted:
    """Read both.

    Raises:
        BadRequest: a query parameter that is unknown, or has no such value.
        ServingError: 406, nothing that is acceptable can be answered.
    """
    given = _parameters(query)
    opacity = _opacity(given["overlay"]) if "overlay" in given else None
    kind = _best(accept, (Kind.PNG,) if opacity is not None else _OFFERED)
    if "class" in given and not (kind is Kind.PNG and given.get("output") == "probabilities"):
        raise BadRequest("class: goes with output=probabilities and Accept: image/png only")
    if kind is Kind.PNG and given.get("output", "mask") not in ("mask", "probabilities"):
        raise BadRequest(f"output: image/png shows mask or probabilities, not {given['output'][:100]!r}")
    return Wanted(kind, given.get("output", ""), opacity, _number(given.get("class", "-1")))


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=len(_PARAMETERS))
    except ValueError:
        raise BadRequest("the query can't be read, or has too many parameters") from None
    for name, _ in pairs:
        if name not in _PARAMETERS:
            raise BadRequest(f"query parameter {name[:100]!r} is not served; there are {', '.join(_PARAMETERS)}")
    if len(dict(pairs)) != len(pairs):
        raise BadRequest("a query parameter is given twice")
    return dict(pairs)


def _opacity(value: str) -> float | None:
    if value.lower() in _FALSE:
        return None
    if value.lower() in _TRUE:
        return _OPACITY
    try:
        opacity = float(value)
    except ValueError:
        opacity = -1.0
    if not 0 < opacity <= 1:
        raise BadRequest(f"overlay is {value[:50]!r}; it must be true, false, or an opacity above 0, up to 1")
    return opacity


def _number(value: str) -> int:
    if value != "-1" and not (value.isascii() and value.isdigit() and len(value) < 9):
        raise BadRequest(f"class is {value[:50]!r}; it must be the number of a class")
    return int(value)


def _best(accept: str, offered: tuple[Kind, ...]) -> Kind:
    """The offered type that the client likes best; of those alike, the one that it names most closely."""
    if not accept or accept == "*/*":
        return offered[0]
    ranges = [_range(part) for part in accept.lower().split(",")]
    ranked = [(*_liking(kind, ranges), -place, kind) for place, kind in enumerate(offered)]
    quality, _, _, kind = max(ranked)
    if not quality:
        raise ServingError(406, f"accept {accept[:200]!r} allows none of {', '.join(offered)}")
    return kind


def _range(part: str) -> tuple[str, float]:
    media, _, parameters = part.partition(";")
    match = _QUALITY.search(parameters)
    return media.strip(), float(match[1]) if match else 1.0


def _liking(kind: Kind, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """Quality of a type, and how closely it is named: the closest range is the one that counts."""
    main = kind.split("/")[0]
    closeness = {kind.value: 3, f"{main}/*": 2, "*/*": 1}
    found = [(closeness[media], quality) for media, quality in ranges if media in closeness]
    if not found:
        return 0.0, 0
    close, quality = max(found)
    return quality, close
