"""The order of measuring, and what the rounds come to: medians, spreads, ratios. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from .wrk import Load

ROUNDS = 3
CONNECTIONS = (1, 8, 64)


@dataclass(frozen=True)
class Target:
    """One address under load; `relay` ones are measured at one connection only."""

    server: str
    model: str
    url: str
    body: str
    relay: bool = False

    @property
    def name(self) -> str:
        """Tells targets apart."""
        return f"{self.server} {self.model}".strip()


@dataclass(frozen=True)
class Sample:
    """One target's load in one round."""

    target: Target
    connections: int
    round: int
    load: Load


@dataclass(frozen=True)
class Spread:
    """Over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


def plan(targets: Sequence[Target]) -> Iterator[tuple[int, int, Target]]:
    """(round, connections, target): all targets in turn, each round beginning with another one."""
    for index in range(ROUNDS):
        for connections in CONNECTIONS:
            for target in (*targets[index:], *targets[:index]):
                if connections == 1 or not target.relay:
                    yield index, connections, target


class Results:
    """All samples of a run."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def loads(self, target: Target, connections: int) -> list[Load]:
        """One per round, in order."""
        return [s.load for s in self.samples if (s.target, s.connections) == (target, connections)]

    def spread(self, target: Target, connections: int, figure: Callable[[Load], float]) -> Spread:
        """Of one figure."""
        return Spread.of([figure(load) for load in self.loads(target, connections)])

    def compared(self, target: Target, peer: Target, connections: int, how: Callable[[Load, Load], float]) -> Spread:
        """Of a figure made from the target's and the peer's load of the same round."""
        pairs = zip(self.loads(target, connections), self.loads(peer, connections), strict=True)
        return Spread.of([how(own, other) for own, other in pairs])


def throughput_ratio(own: Load, other: Load) -> float:
    """How many times the other's requests per second."""
    return own.per_second / other.per_second


def p50_difference(own: Load, other: Load) -> float:
    """Milliseconds more at the median."""
    return own.p50_ms - other.p50_ms
