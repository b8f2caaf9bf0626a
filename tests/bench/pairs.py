"""A stable server with a split that can be changed, alone and together with a candidate of the same model."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .bodies import Post
from .servers import CANDIDATE, START, BenchFailed, Server, Servers

STABLE, SALT = "aaaaaaaa", "bench"
_POLL = 0.01
_TTL = 3600


class Stable:
    """A server with a split file, in front of a candidate at some address."""

    def __init__(self, servers: Servers, model: Path, candidate_url: str) -> None:
        self._file = Path(tempfile.mkdtemp(dir=servers.folder)) / "split"  # new: one found at start is not obeyed
        self._generation = 0
        self.server = servers.modelramp(
            model, STABLE, **{"candidate-url": candidate_url, "traffic-file": str(self._file)}
        )

    def split(self, weight: int) -> None:
        """Hand so many percent to the candidate; returns when that is in force.

        Raises:
            BenchFailed: it does not come into force.
        """
        self._generation += 1
        split = {"v": 1, "generation": self._generation, "revision": CANDIDATE, "weight": weight, "salt": SALT}
        written = self._file.with_suffix(".new")
        written.write_text(json.dumps({**split, "ttl": _TTL}))
        written.rename(self._file)
        deadline = time.monotonic() + START
        while set(self.server.metric("modelramp_traffic_generation").values()) != {float(self._generation)}:
            if time.monotonic() > deadline:
                raise BenchFailed("the split file is in place, but stable does not act on it")
            time.sleep(_POLL)

    def dealt(self) -> dict[str, int]:
        """Requests dealt to the candidate, by outcome (docs/contract.md, "Metrics")."""
        found = self.server.metric("modelramp_split_requests_total", side="candidate")
        return {dict(labels)["outcome"]: int(value) for labels, value in found.items() if value}

    def net(self) -> dict[str, int]:
        """Answers that stable gave in the candidate's place, by reason."""
        found = self.server.metric("modelramp_net_answers_total")
        return {dict(labels)["reason"]: int(value) for labels, value in found.items() if value}


class Pair:
    """A stable server and its candidate, of the same model."""

    def __init__(self, servers: Servers, model: Path, post: Post) -> None:
        self._post = post
        self._candidate = servers.modelramp(model)
        self._stable = Stable(servers, model, self._candidate.address)
        for server in (self.stable, self._candidate):  # a split found at start would be taken for expired
            server.get("/v2/health/ready")  # what is asked before counts as bad, with 503
            server.ask(post)

    @property
    def stable(self) -> Server:
        """The one that clients ask."""
        return self._stable.server

    def split(self, weight: int) -> None:
        """See Stable; a request has gone through when it returns."""
        self._stable.split(weight)
        self.stable.ask(self._post)

    def relayed(self) -> dict[str, int]:
        """See Stable.dealt."""
        return self._stable.dealt()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Neither held still."""
        with self.stable.running(), self._candidate.running():
            yield

    def hold(self) -> None:
        """Hold both still."""
        self.stable.hold()
        self._candidate.hold()
