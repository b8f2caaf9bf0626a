"""The bars that the server is to clear, each beside what was measured. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from .alike import LOOKS, Alike
from .bad import Held
from .faults import Suffered
from .footprint import Memory
from .relayed import RelayOutcome
from .rounds import CEILING, OWN, Results, Spread, Target


@dataclass(frozen=True)
class Bar:
    """`found` is to be at least the limit, or at most; None: not measured."""

    what: str
    limit: float
    found: Spread | None
    at_most: bool = False
    unit: str = ""

    @property
    def held(self) -> bool | None:
        """By the median of the rounds; None where nothing was measured."""
        if self.found is None:
            return None
        return self.found.median <= self.limit if self.at_most else self.found.median >= self.limit

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}{self.unit}"


def of_tiny(results: Results, model: str) -> Iterator[Bar]:
    """JSON of the tiny model, on ONNX or torch."""
    own = Target(model, OWN, "JSON")
    yield _over_peers(results, own, 64, 10)
    bare = results.ratio(own, Target(model, CEILING, "JSON"), 64)
    yield Bar(f"{model} JSON, 64 connections: over raw ASGI", 0.6, bare)
    yield _over_peers(results, own, 1, 2.5)


def of_cnn(results: Results, model: str) -> Iterator[Bar]:
    """Each encoding of the image model, over the best peer at that encoding and at any."""
    for encoding, limit in (("binary", 3.0), ("JPEG", 2.5), ("JSON", 2.0)):
        own = Target(model, OWN, encoding)
        yield _over_peers(results, own, 64, limit)
        if encoding != "binary":
            yield _over_peers(results, own, 64, limit, encoding)


def of_relay(outcome: RelayOutcome) -> Iterator[Bar]:
    """What relaying costs."""
    for model in outcome.models:
        if model == "tiny":
            difference = outcome.p50_difference(model)
            yield Bar("relayed p50 above direct, 1 connection, tiny", 0.4, difference, at_most=True, unit=" ms")
        limit = 0.65 if model == "tiny" else 0.95
        yield Bar(f"pair at weight 10 over direct, 64 connections, {model}", limit, outcome.kept(model))


def of_memory(memory: Memory) -> Iterator[Bar]:
    """Of an idle server."""
    yield Bar("idle with the scikit-learn model", 260, Spread.of(memory.idle), at_most=True, unit=" MiB")
    yield Bar("of it above bare imports", 40, memory.above, at_most=True, unit=" MiB")


def of_start(seconds: dict[str, list[float]]) -> Iterator[Bar]:
    """Start to ready."""
    for model, took in seconds.items():
        yield Bar(f"start to ready, {model}", 3, Spread.of(took), at_most=True, unit=" s")


def of_faults(suffered: list[Suffered]) -> Iterator[Bar]:
    """What clients notice of a candidate, whatever its fault."""
    errors = Spread.of([float(each.errors) for each in suffered])
    p99 = Spread.of([each.p99 / each.budget for each in suffered])
    yield Bar("client errors, the worst of all faults", 0, _worst(errors), at_most=True)
    yield Bar("p99 over the budget, the worst of all faults", 1, _worst(p99), at_most=True)


def of_alike(alike: Alike) -> Iterator[Bar]:
    """The operator's verdicts where there is no difference."""
    yield Bar(f"looks of {LOOKS} that said Fail", 0, Spread.of([float(alike.failed)]), at_most=True)


def of_bad(held: Held) -> Iterator[Bar]:
    """What bad requests leave behind."""
    first, last = held.after
    what = f"memory after {last:,} bad requests, above that after {first:,}"
    yield Bar(what, 10, Spread.of([held.growth]), at_most=True, unit=" MiB")


def _worst(spread: Spread) -> Spread:
    return Spread(spread.high, spread.low, spread.high)


def _over_peers(results: Results, own: Target, connections: int, limit: float, encoding: str = "") -> Bar:
    best = results.best_peer(own.model, connections, encoding)
    at = f" at {encoding}" if encoding else " at any encoding" if own.model == "cnn" else ""
    count = f"{connections} connection{'s' if connections > 1 else ''}"
    found = results.ratio(own, best, connections) if best else None
    return Bar(f"{own.model} {own.encoding}, {count}: over the best peer{at} ({best or 'none'})", limit, found)
