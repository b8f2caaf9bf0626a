"""The part `relay`: what it costs a request to be relayed, and what a pair at weight 10 keeps of the throughput."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from . import bodies, wrk
from .bodies import Post
from .models import Saved
from .pairs import Pair
from .rounds import Spread
from .servers import Server, Servers

WEIGHT, BUSY = 10, 64
_DIRECT, _ALL = -1, 100


@dataclass(frozen=True)
class RelaySample:
    """One load of one round. `model` is its name, with the encoding where there are several; `weight` is -1 where a
    server without a candidate was asked."""

    model: str
    weight: int
    connections: int
    round: int
    load: wrk.Load


@dataclass(frozen=True)
class RelayOutcome:
    """All rounds, and by model how the requests that were dealt to the candidate came out."""

    samples: list[RelaySample]
    dealt: dict[str, dict[str, int]]

    def p50(self, model: str, relayed: bool) -> Spread:
        """Milliseconds at one connection."""
        return Spread.of([load.p50_ms for load in self._loads(model, _ALL if relayed else _DIRECT, 1)])

    def p50_difference(self, model: str) -> Spread:
        """Milliseconds that a relayed request takes more, at one connection."""
        return self._compared(model, _ALL, 1, lambda relayed, direct: relayed.p50_ms - direct.p50_ms)

    def kept(self, model: str) -> Spread:
        """The pair's share of the direct server's throughput, at 64 connections."""
        return self._compared(model, WEIGHT, BUSY, lambda pair, direct: pair.per_second / direct.per_second)

    @property
    def models(self) -> list[str]:
        """Those measured."""
        return list(self.dealt)

    def _loads(self, model: str, weight: int, connections: int) -> list[wrk.Load]:
        wanted = (model, weight, connections)
        return [s.load for s in self.samples if (s.model, s.weight, s.connections) == wanted]

    def _compared(
        self, model: str, weight: int, connections: int, how: Callable[[wrk.Load, wrk.Load], float]
    ) -> Spread:
        pairs = zip(self._loads(model, weight, connections), self._loads(model, _DIRECT, connections), strict=True)
        return Spread.of([how(relayed, direct) for relayed, direct in pairs])


class RelayBench:
    """For each model, and each way to ask it, a server alone and a pair."""

    def __init__(self, servers: Servers, saved: list[Saved]) -> None:
        self._arenas = [
            _Arena(servers, each.folder, f"{each.name} {encoding}" if len(posts) > 1 else each.name, post)
            for each in saved
            for posts in [bodies.own(each)]
            for encoding, post in posts.items()
        ]

    def run(self, rounds: int, seconds: int) -> RelayOutcome:
        """All models in turn, in rounds; the first one, which warms up, does not count."""
        turns = [(index, arena) for index in range(-1, rounds) for arena in self._arenas]
        samples: list[RelaySample] = []
        for index, arena in track(turns, f"relay: {len(turns)} turns of 4 loads of {seconds} s"):
            found = list(arena.turn(index, seconds if index >= 0 else 1))
            samples += found if index >= 0 else []
        return RelayOutcome(samples, {arena.model: arena.dealt() for arena in self._arenas})


class _Arena:
    def __init__(self, servers: Servers, folder: Path, model: str, post: Post) -> None:
        self.model = model
        self._post = post
        self._script = wrk.script(servers.folder, f"relay-{model.replace(' ', '-')}", post)
        self._alone: Server = servers.modelramp(folder)
        self._alone.ask(post)
        self._alone.hold()
        self._pair = Pair(servers, folder, post)
        self._pair.hold()

    def turn(self, index: int, seconds: int) -> Iterator[RelaySample]:
        for weight, connections in ((_ALL, 1), (WEIGHT, BUSY)):
            alone = (self._alone.running(), self._alone, _DIRECT)
            pair = (self._pair.running(), self._pair.stable, weight)
            for running, server, said in (alone, pair) if index % 2 else (pair, alone):
                load = self._load(running, server, said, connections, seconds)
                yield RelaySample(self.model, said, connections, index, load)

    def dealt(self) -> dict[str, int]:
        with self._pair.running():
            return self._pair.relayed()

    def _load(
        self, running: AbstractContextManager[None], server: Server, weight: int, connections: int, seconds: int
    ) -> wrk.Load:
        with running:
            if weight != _DIRECT:
                self._pair.split(weight)
            server.ask(self._post)
            found = wrk.load(server.address + self._post.path, self._script, connections, seconds)
            server.ask(self._post)
        return found
