"""From the stable pods' counters to evidence in status: one look at a time, resumable after each."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain.counts import BadWindow, Counts, dispersion_index, interval
from modelramp.domain.evidence import EvidenceState, Settings, update
from modelramp.domain.turn import Turn
from modelramp.domain.verdict import verdict
from modelramp.domain.world import Pod, SplitCounts

ERRORS = "errors"


SIDES = ("candidate", "stable", "answered", "refused")

Counters = Mapping[str, Counts]


@dataclass(frozen=True)
class Memory:
    """What one metric remembers between looks: the tests' state, and the pods' counters at the last look.

    candidate, stable: evidence about each side. answered: requests dealt, and those the candidate answered.
    refused: requests dealt to the candidate, and those that are no evidence because nobody took them.
    """

    state: EvidenceState
    counters: Mapping[str, Counters]

    def dump(self) -> str:
        counters = {side: {k: [c.requests, c.bad] for k, c in self.counters[side].items()} for side in SIDES}
        return json.dumps({"tests": self.state.to_dict(), **counters}, separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> "Memory":
        """Starts afresh from anything that this release did not write."""
        try:
            data = json.loads(text)
            counters = {side: {k: Counts(*c) for k, c in data[side].items()} for side in SIDES}
            return cls(EvidenceState.from_dict(data["tests"]), counters)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(EvidenceState(), {side: {} for side in SIDES})

    def advance(self, state: EvidenceState, current: Mapping[str, Counters], pods: Collection[str]) -> "Memory":
        """Takes over the counters just read, and forgets pods that are gone."""
        merged = {side: {**self.counters[side], **current[side]} for side in SIDES}
        kept = {side: {k: c for k, c in m.items() if k.partition("@")[0] in pods} for side, m in merged.items()}
        return Memory(state, kept)


def due(turn: Turn) -> bool:
    """Whether the look interval has passed since the last look."""
    last = turn.status.evidence[0].looked_at if turn.status.evidence else None
    if last is None:
        turn.wake_in(turn.snap.policy.look_interval)
        return True
    if not turn.over(last, turn.snap.policy.look_interval):
        return False
    turn.wake_in(turn.snap.policy.look_interval)
    return True


def look(turn: Turn) -> None:
    """Takes one look if it is due, and writes what it says into status.evidence."""
    if not due(turn):
        return
    before = turn.status.evidence[0] if turn.status.evidence else None
    memory = Memory.load(before.state if before else "")
    pods = [pod for pod in turn.world.pods_of(turn.stable_revision) if pod.metrics is not None]
    now = {key(pod): counts for pod in pods if (counts := splits(pod, turn.candidate.salt))}
    current = {side: {k: count(side, c) for k, c in now.items()} for side in SIDES}
    fresh = {side: interval(memory.counters[side], current[side], born=now) for side in SIDES}
    analysis = turn.snap.spec.rollout.analysis
    settings = Settings(alpha=analysis.alpha, objective=analysis.objectives.error_rate)
    refused = fresh["refused"]
    blind = not pods or (refused.requests > 0 and refused.bad == refused.requests)
    state = update(
        memory.state,
        None if blind else fresh["candidate"],
        None if blind else fresh["stable"],
        dispersion_index(pooled(pods)),
        settings,
    )
    share(turn, before, fresh["answered"])
    remembered = memory.advance(state, current, {pod.name for pod in turn.world.pods})
    turn.set(evidence=[report(turn, before, state, settings, fresh["candidate"].requests, remembered)])


def key(pod: Pod) -> str:
    """Names a container's life: a restart begins a new one."""
    started = pod.metrics.started if pod.metrics else 0.0
    return f"{pod.name}@{started:.0f}"


def splits(pod: Pod, attempt: str) -> SplitCounts | None:
    return pod.metrics.splits.get(attempt) if pod.metrics else None


def count(side: str, c: SplitCounts) -> Counts:
    """One side's counters as requests and, among them, those that matter (see Memory)."""
    unanswered = c.candidate_error + c.candidate_skipped
    to_candidate = c.candidate_ok + c.candidate_bad + unanswered
    match side:
        case "candidate":
            return Counts(c.candidate_ok + c.candidate_bad, c.candidate_bad)
        case "stable":
            return Counts(c.stable_ok + c.stable_bad, c.stable_bad)
        case "answered":
            return Counts(to_candidate + c.stable_ok + c.stable_bad, c.candidate_ok)
        case _:
            return Counts(to_candidate, unanswered)


def pooled(pods: list[Pod]) -> list[BadWindow]:
    """Each pod sees only its part of a cluster of errors; n pods' parts are n times as clustered as one's."""
    windows = [
        BadWindow(m.bad_seconds, m.bad_sum, m.bad_squares) for pod in pods if (m := pod.metrics) and m.bad_seconds
    ]
    if not windows:
        return []
    index = 1 + len(windows) * (dispersion_index(windows) - 1)
    total = math.fsum(w.total for w in windows)
    seconds = max(w.seconds for w in windows)
    mean = total / seconds
    return [BadWindow(seconds, total, seconds * (index * mean + mean * mean))]


def share(turn: Turn, before: EvidenceStatus | None, dealt: Counts) -> None:
    """The weight that was achieved since it came into force, from counters; an interval that began earlier is left out.
    A client's mistakes (4xx on both sides) are on neither side of it."""
    step = turn.status.step
    if step is None or step.in_force_since is None or before is None or before.looked_at is None:
        return
    if before.looked_at < step.in_force_since:
        return
    requests = step.counted_requests + dealt.requests
    by_candidate = step.counted_candidate + dealt.bad
    achieved = round(100 * by_candidate / requests, 2) if requests else None
    changes = {
        "counted_requests": requests,
        "counted_candidate": by_candidate,
        "achieved_weight": achieved,
    }
    turn.set(step=step.model_copy(update=changes))


def report(
    turn: Turn,
    before: EvidenceStatus | None,
    state: EvidenceState,
    settings: Settings,
    requests: int,
    remembered: Memory,
) -> EvidenceStatus:
    judged = verdict(state, settings)
    since = before.looked_at if before else turn.candidate.started_at
    seconds = (turn.now - since).total_seconds() if since else 0.0
    needed = judged.requests_needed
    return EvidenceStatus(
        metric=ERRORS,
        verdict=Verdict(judged.outcome.value),
        message=judged.reason,
        requests=state.candidate.requests,
        bad=state.candidate.bad,
        rate=round(judged.candidate_rate, 6),
        stable_requests=state.stable.requests,
        stable_bad=state.stable.bad,
        stable_rate=round(judged.stable_rate, 6),
        requests_needed=needed,
        seconds_needed=math.ceil(needed * seconds / requests) if needed is not None and requests else None,
        looked_at=turn.now,
        state=remembered.dump(),
    )


def verdicts(turn: Turn) -> set[Verdict]:
    return {evidence.verdict for evidence in turn.status.evidence}


def failure(turn: Turn) -> EvidenceStatus | None:
    return next((e for e in turn.status.evidence if e.verdict is Verdict.FAIL), None)


def blind(turn: Turn) -> bool:
    return Verdict.ERROR in verdicts(turn)


def passed(turn: Turn) -> bool:
    return verdicts(turn) == {Verdict.PASS}
