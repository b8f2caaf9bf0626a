"""The story: the alias names one version after the other, and what should become of each must come true."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from modelramp.api.spec import Spec
from modelramp.api.status import Phase, Status

from .answers import tally
from .measures import FULL, Harm, Share, harm, held, share
from .watch import StoryBroken, World

POLL = 15.0  # the operator's default poll interval of the registry
START = 60.0  # for pods to start on a busy machine
TOLERANCE, ENOUGH = 0.5, 5000  # points of share, answers that it takes to measure it


@dataclass(frozen=True)
class Check:
    """One claim of the story, and whether it came true."""

    claim: str
    held: bool


@dataclass
class Story:
    """Moves the alias, waits for what comes of it, measures it. `say` tells people; `alias` sets the alias."""

    spec: Spec
    world: World
    alias: Callable[[int], None]
    say: Callable[[str], None]
    moved: dict[int, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    harm: Harm | None = None

    @property
    def held(self) -> bool:
        return bool(self.checks) and all(check.held for check in self.checks)

    def claim(self, text: str, came_true: bool) -> None:
        self.checks.append(Check(text, came_true))
        self.say(f"{'✓' if came_true else '✗'} {text}")

    def move(self, version: int) -> None:
        """Moves the alias, and remembers when (seconds since the epoch)."""
        self.alias(version)
        self.moved[version] = time.time()

    # The acts. Each raises StoryBroken if its outcome does not come in time.

    def serve_first(self) -> None:
        status = self.world.wait("version 1 serves", POLL + 3 * START, serves(1))
        self.claim("version 1, the first, went straight to stable", _stable(status) == 1)

    def await_clients(self, rate: float) -> None:
        """Until the clients have been sending for a second. Raises StoryBroken."""
        deadline = time.monotonic() + START
        while len(self.world.answers) < rate:
            if time.monotonic() > deadline:
                raise StoryBroken(f"the clients got {len(self.world.answers)} answers in {START:.0f} s")
            time.sleep(0.2)

    def promote_second(self) -> None:
        self.say("Act 2: the alias moves to version 2, which is better: it should be ramped up and promoted")
        self.move(2)
        rollout = self.spec.rollout
        holds = sum(step.hold.total_seconds() for step in rollout.steps if step.hold)
        seconds = POLL + 3 * START + holds + rollout.bake.total_seconds() + 60
        status = self.world.wait("version 2 promoted", seconds, lambda s: _stable(s) == 2 or _rejects(s, 2))
        self.claim("version 2 was ramped up and promoted", _stable(status) == 2)
        ramp = [weight for weight in held(self.world.changes, 2) if weight.weight < FULL]
        self.shares = [share(self.world.answers, weight) for weight in ramp]
        wanted = [step.weight for step in rollout.steps if step.weight]
        self.claim(
            f"it held the weights {', '.join(f'{w} %' for w in wanted)} in this order",
            [one.weight for one in self.shares] == wanted,
        )
        for one in self.shares:
            self.claim(
                f"at {one.weight} % it was dealt {one.percent:.2f} % of {one.answers:,} requests "
                f"(within {TOLERANCE} points, of at least {ENOUGH:,})",
                one.off_by <= TOLERANCE and one.answers >= ENOUGH,
            )

    def catch_third(self) -> None:
        self.say("Act 3: the alias moves to version 3, which passes its warm-up and fails on some real images")
        self.move(3)
        status = self.world.wait("version 3 taken back", POLL + START + 90, lambda s: _settled(s, 3))
        self.claim("version 3 was caught by the analysis and rejected", _reason(status, 3) == "AnalysisFailed")
        self.claim("version 2 served on", _stable(status) == 2)
        self.harm = harm(self.world.answers, self.world.changes, 3)
        if self.harm is None:
            self.claim("version 3 gave bad answers", False)
            return
        failed = tally(a for a in self.world.answers if a.sent >= self.moved[3]).failed
        self.claim(
            f"{self.harm.bad} of the {self.harm.handed} requests that it was handed went wrong; "
            f"clients saw {failed} failures",
            failed == 0,
        )
        self.say(f"  from its first bad answer to weight 0 in force: {self.harm.seconds:.1f} s")

    def stop_fourth(self) -> None:
        self.say("Act 4: the alias moves to version 4, which starts and never finishes its warm-up")
        self.move(4)
        deadline = self.spec.rollout.progress_deadline.total_seconds()
        status = self.world.wait("version 4 taken back", POLL + deadline + 60, lambda s: _settled(s, 4))
        self.claim(
            f"version 4 was rejected when it was not ready after {deadline:.0f} s",
            _reason(status, 4) == "ProgressDeadlineExceeded",
        )
        since = self.moved[4]
        answers = [answer for answer in self.world.answers if answer.sent >= since]
        later = [change.status for change in self.world.changes if change.seen >= since]
        weights = {status.traffic.weight for status in later}
        given = sum(answer.version == 4 or bool(answer.net) for answer in answers)
        self.claim("it was never given traffic", given == 0 and weights == {0})
        self.claim("version 2 served on", _stable(status) == 2)

    def finish(self) -> None:
        everything = tally(self.world.answers)
        self.claim(
            f"{everything.failed} failed client requests in {everything.answers:,}",
            everything.failed == 0 and everything.answers > 0,
        )


def serves(version: int) -> Callable[[Status], bool]:
    """Whether that version is stable and nothing is under way."""
    return lambda status: _stable(status) == version and status.phase is Phase.STABLE


def _stable(status: Status) -> int:
    return status.stable.version if status.stable else 0


def _rejects(status: Status, version: int) -> bool:
    return any(rejected.version == version for rejected in status.rejected)


def _reason(status: Status, version: int) -> str:
    return next((rejected.reason for rejected in status.rejected if rejected.version == version), "")


def _settled(status: Status, version: int) -> bool:
    """The rollout of that version is over, either way."""
    return _stable(status) == version or (_rejects(status, version) and status.candidate is None)
