"""The order of measuring, and what the rounds come to: medians, spreads, ratios. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from .wrk import Load

CONNECTIONS = (1, 8, 64)
OWN, CEILING = "modelramp", "raw ASGI"
Figure = Callable[[Load], float]


@dataclass(frozen=True)
class Target:
    """One way to ask one server for one model."""

    model: str
    server: str
    encoding: str

    @property
    def is_peer(self) -> bool:
        """Whether somebody else's server."""
        return self.server not in (OWN, CEILING)

    def __str__(self) -> str:
        return f"{self.server} {self.encoding}".strip()


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


def plan(targets: Sequence[Target], rounds: int) -> Iterator[tuple[int, int, Target]]:
    """(round, connections, target): all targets in turn, each round beginning with another one."""
    for index in range(rounds):
        first = index % len(targets)
        for connections in CONNECTIONS:
            for target in (*targets[first:], *targets[:first]):
                yield index, connections, target


class Results:
    """Samples of loads."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    @property
    def targets(self) -> list[Target]:
        """Each once, in a fixed order."""
        return sorted({sample.target for sample in self.samples}, key=lambda t: (t.model, t.is_peer, str(t)))

    def spread(self, target: Target, connections: int, figure: Figure) -> Spread | None:
        """Of one figure."""
        loads = self._loads(target, connections)
        return Spread.of([figure(load) for load in loads]) if loads else None

    def ratio(self, target: Target, other: Target, connections: int) -> Spread | None:
        """Of requests per second, in the same round each."""
        pairs = list(zip(self._loads(target, connections), self._loads(other, connections), strict=False))
        return Spread.of([own.per_second / max(peer.per_second, 1e-9) for own, peer in pairs]) if pairs else None

    def best_peer(self, model: str, connections: int, encoding: str = "") -> Target | None:
        """The one with the highest median of requests per second; of one encoding, or of any."""
        peers = [t for t in self.targets if t.model == model and t.is_peer and encoding in ("", t.encoding)]
        rates = {t: spread.median for t in peers if (spread := self.spread(t, connections, per_second))}
        return max(rates, key=lambda t: rates[t], default=None)

    def _loads(self, target: Target, connections: int) -> list[Load]:
        return [s.load for s in self.samples if (s.target, s.connections) == (target, connections)]


def per_second(load: Load) -> float:
    """Requests."""
    return load.per_second
