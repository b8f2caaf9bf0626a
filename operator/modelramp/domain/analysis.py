"""From the pods' counters to evidence in status: one look at a time, resumable after each.

One entry of status.evidence per metric. A Fail of any fails; a Pass takes all of them; an Error of any holds.
"""

from datetime import datetime

from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain import disagreement, drift, errors, latency, queries
from modelramp.domain.counts import Counts
from modelramp.domain.disagreement import DISAGREEMENT
from modelramp.domain.drift import DRIFT
from modelramp.domain.errors import ERRORS
from modelramp.domain.evidence import split_alpha
from modelramp.domain.latency import LATENCY
from modelramp.domain.turn import Turn


def metrics(turn: Turn) -> list[str]:
    """What the spec asks to be judged, in a shadow and on live requests. Drift without a bound is watched, not judged:
    see checks.drifted."""
    asked = turn.snap.spec.rollout.analysis.objectives
    wanted = {ERRORS: True, LATENCY: asked.latency is not None, DRIFT: drift.judged(asked.drift)}
    return [metric for metric, judged in wanted.items() if judged]


def judged(turn: Turn) -> list[EvidenceStatus]:
    """The evidence on those, on disagreement, and on what Prometheus is asked."""
    asked = (*metrics(turn), DISAGREEMENT, *queries.metrics(turn))
    return [e for e in turn.status.evidence if e.metric in asked]


def looked_at(turn: Turn) -> datetime | None:
    return max((e.looked_at for e in turn.status.evidence if e.looked_at is not None), default=None)


def due(turn: Turn) -> bool:
    """Whether the look interval has passed since the last look."""
    last = looked_at(turn)
    if last is not None and not turn.over(last, turn.snap.policy.look_interval):
        return False
    turn.wake_in(turn.snap.policy.look_interval)
    return True


def look(turn: Turn) -> None:
    """Takes one look if it is due, and writes what it says into status.evidence."""
    if not due(turn):
        return
    asked = turn.snap.spec.rollout.analysis
    before = {e.metric: e for e in turn.status.evidence}
    tally = turn.snap.router.tally(turn)
    alpha = split_alpha(asked.alpha, len(metrics(turn)) + disagreement.judged(turn))
    evidence, dealt = errors.look(turn, before.get(ERRORS), tally, alpha)
    share(turn, dealt)
    found = [evidence]
    if asked.objectives.latency is not None:
        found.append(latency.look(turn, before.get(LATENCY), tally, alpha, asked.objectives.latency))
    found += disagreement.look(turn, before.get(DISAGREEMENT), tally, alpha)
    moved = asked.objectives.drift
    watched = drift.look(turn, before.get(DRIFT), tally, alpha if drift.judged(moved) else asked.alpha, moved)
    found += [watched] if watched is not None else []
    turn.set(evidence=found + queries.look(turn))


def share(turn: Turn, dealt: Counts) -> None:
    """The weight that was achieved since it came into force, from counters; an interval that began earlier is left out.
    A client's mistakes (4xx on both sides) are on neither side of it."""
    step, last = turn.status.step, looked_at(turn)
    if step is None or step.in_force_since is None or last is None or last < step.in_force_since:
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


def told(turn: Turn, *verdicts: Verdict) -> str:
    """What the metrics with one of these verdicts say, or all of them; each by its name if there are several."""
    evidence = judged(turn)
    chosen = [e for e in evidence if e.verdict in verdicts or not verdicts]
    if len(evidence) < 2:
        return "".join(e.message for e in chosen) or "no look taken yet"
    return "; ".join(f"{e.metric}: {e.message}" for e in chosen)


def failed(turn: Turn) -> bool:
    return any(e.verdict is Verdict.FAIL for e in judged(turn))


def blind(turn: Turn) -> bool:
    return any(e.verdict is Verdict.ERROR for e in judged(turn))


def passed(turn: Turn) -> bool:
    """Every metric that is asked for now has passed; one that was asked for since the last look has not. A bound on
    disagreement was met before the shadow ended."""
    verdicts = {e.metric: e.verdict for e in judged(turn) if e.metric != DISAGREEMENT}
    return verdicts == dict.fromkeys(metrics(turn) + queries.metrics(turn), Verdict.PASS)
