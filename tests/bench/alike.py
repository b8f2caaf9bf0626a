"""The part `alike`: the same model on both sides. Does the operator's analysis, fed by real servers, ever say Fail?

What it reads of stable's `/metrics` and what it makes of that is the operator's own code, its metrics of errors and of
latency both asked for; the rest of a rollout (status, pods) is made up as the operator would have it.
"""

import threading
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.progress import track

from modelramp.adapters.exposition import pod_metrics
from modelramp.api.spec import Analysis, Latency, ModelRef, Objectives, Rollout, Spec
from modelramp.api.status import CandidateStatus, Cause, EvidenceStatus, Phase, StableStatus, Status
from modelramp.domain import analysis
from modelramp.domain.snapshot import Policy, Snapshot
from modelramp.domain.turn import Turn
from modelramp.domain.world import Pod, World
from modelramp.routers.relay import ROUTER

from . import bodies, open_loop
from .models import Saved
from .pairs import SALT, STABLE, Pair
from .servers import CANDIDATE, HOST, Server, Servers

WEIGHT, RATE = 10, 200
LOOKS, EVERY = 60, 2.0  # seconds from look to look
BEFORE = 10.0  # seconds of requests from which stable's own latency is known
_BUDGET = 30.0


@dataclass(frozen=True)
class Look:
    """What one metric said at one look."""

    look: int
    metric: str
    verdict: str
    requests: int
    bad: int
    stable_requests: int
    stable_bad: int
    message: str


@dataclass(frozen=True)
class Alike:
    """All looks, and the codes that the clients got."""

    looks: list[Look]
    codes: dict[str, int]

    def of(self, metric: str) -> list[Look]:
        """Its looks."""
        return [look for look in self.looks if look.metric == metric]

    @property
    def failed(self) -> int:
        """Looks at which a metric said Fail."""
        return len({look.look for look in self.looks if look.verdict == "Fail"})


def run(folder: Path, model: Saved) -> Alike:
    """One rollout of `LOOKS` looks."""
    with ExitStack() as stack:
        post = bodies.v2(model)
        pair = Pair(Servers(stack, folder), model.folder, post)
        request = open_loop.post(post.path, post.body, _BUDGET)
        open_loop.opened(HOST, pair.stable.port, request, RATE, BEFORE)
        pair.split(WEIGHT)
        answers: list[open_loop.Answers] = []
        load = threading.Thread(
            target=lambda: answers.append(open_loop.opened(HOST, pair.stable.port, request, RATE, (LOOKS + 1) * EVERY)),
            daemon=True,
        )
        load.start()
        looks = _watch(pair.stable)
        load.join()
        return Alike(looks, dict(answers[0].codes))


def _watch(stable: Server) -> list[Look]:
    started = time.monotonic()
    status = _ramping(datetime.now(UTC))
    looks: list[Look] = []
    for number in track(range(1, LOOKS + 1), f"alike: {LOOKS} looks, {EVERY:g} s apart"):
        time.sleep(max(0.0, started + number * EVERY - time.monotonic()))
        status = _look(status, _scrape(stable))
        looks += [_told(number, evidence) for evidence in status.evidence]
    return looks


def _look(status: Status, text: str) -> Status:
    """The status after the operator has looked at what stable's pod says."""
    pod = Pod("stable-0", STABLE, ready=True, metrics=pod_metrics(text))
    snapshot = Snapshot(
        now=datetime.now(UTC),
        uid="bench",
        generation=1,
        spec=_SPEC,
        status=status,
        world=World(pods=(pod,), selected=STABLE),
        resolution=None,
        target=None,
        policy=Policy(look_interval=timedelta(seconds=EVERY / 2)),  # no look is late
        router=ROUTER,
    )
    turn = Turn(snapshot)
    analysis.look(turn)
    return turn.status


def _ramping(now: datetime) -> Status:
    return Status(
        phase=Phase.RAMPING,
        stable=StableStatus(revision=STABLE, version=1, since=now),
        candidate=CandidateStatus(revision=CANDIDATE, version=2, cause=Cause.ALIAS, started_at=now, salt=SALT),
    )


def _told(number: int, evidence: EvidenceStatus) -> Look:
    return Look(
        look=number,
        metric=evidence.metric,
        verdict=evidence.verdict.value,
        requests=evidence.requests,
        bad=evidence.bad,
        stable_requests=evidence.stable_requests,
        stable_bad=evidence.stable_bad,
        message=evidence.message,
    )


def _scrape(stable: Server) -> str:
    with urllib.request.urlopen(stable.address + "/metrics", timeout=10) as answer:
        return str(answer.read().decode())


_SPEC = Spec(
    model=ModelRef(name="bench", alias="prod"),
    rollout=Rollout(analysis=Analysis(objectives=Objectives(latency=Latency()))),
)
