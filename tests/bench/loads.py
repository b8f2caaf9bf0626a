"""The parts `tiny` and `cnn`: every server up with the same model, one at a time under load, in rounds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from . import bodies, wrk
from .bodies import Post
from .models import Saved
from .peers import PEERS, Peer
from .rounds import CEILING, CONNECTIONS, OWN, Sample, Target, plan
from .servers import BenchFailed, Server, Servers

Say = Callable[[str], None]


@dataclass(frozen=True)
class Absent:
    """A server that could not be measured, or one way to ask it, and why."""

    server: str
    encoding: str
    why: str


@dataclass(frozen=True)
class Outcome:
    """What was measured, and what was not."""

    samples: list[Sample]
    absent: list[Absent]


@dataclass(frozen=True)
class Lane:
    """What a target is in this run."""

    server: Server
    post: Post

    def load(self, script: Path, connections: int, seconds: int) -> wrk.Load:
        """One run of wrk; what is left of it is answered before the server is held still again."""
        with self.server.running():
            self.server.ask(self.post)
            found = wrk.load(self.server.address + self.post.path, script, connections, seconds)
            self.server.ask(self.post)
        return found


class Contest:
    """The servers of one model, those that answer rightly."""

    def __init__(self, servers: Servers, saved: Saved, say: Say) -> None:
        self._lanes: dict[Target, Lane] = {}
        self._absent: list[Absent] = []
        self._servers = servers
        self._saved = saved
        for peer in _contenders(saved):
            say(f"{saved.name}: starting {peer.title}")
            self._enter(peer)

    def run(self, rounds: int, seconds: int) -> Outcome:
        """Load each target, in turn; a second of load before the first warms it up."""
        scripts = {
            target: wrk.script(self._servers.folder, f"{self._saved.name}-{index}", lane.post)
            for index, (target, lane) in enumerate(self._lanes.items())
        }
        for target, lane in self._lanes.items():
            lane.load(scripts[target], max(CONNECTIONS), 1)
        steps = list(plan(list(self._lanes), rounds))
        shown = track(steps, f"{self._saved.name}: {len(steps)} loads of {seconds} s")
        samples = [Sample(t, n, i, self._lanes[t].load(scripts[t], n, seconds)) for i, n, t in shown]
        return Outcome(samples, self._absent)

    def _enter(self, peer: Peer) -> None:
        try:
            server = peer.start(self._servers, self._saved)
        except BenchFailed as failure:
            self._absent.append(Absent(peer.title, "", str(failure)))
            return
        for encoding, post in peer.posts(self._saved).items():
            try:
                self._check(peer.title, server, post)
            except BenchFailed as failure:
                self._absent.append(Absent(peer.title, encoding, str(failure)))
            else:
                self._lanes[Target(self._saved.name, peer.title, encoding)] = Lane(server, post)
        server.hold()

    def _check(self, title: str, server: Server, post: Post) -> None:
        answer = server.ask(post).json
        if title != CEILING and not bodies.holds(answer, self._saved.expected):
            raise BenchFailed(f"the answer is not what the model gives: {str(answer)[:300]}")


def _contenders(saved: Saved) -> Iterator[Peer]:
    yield Peer(OWN, lambda servers, saved: servers.modelramp(saved.folder, python=saved.python), bodies.own)
    yield from PEERS
    if not saved.jpeg:  # it answers a constant: what it takes to read a large body is not what it is there to show
        yield Peer(CEILING, lambda servers, saved: servers.ceiling(), lambda saved: {"JSON": bodies.v2(saved)})
