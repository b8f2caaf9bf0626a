"""The metric that is judged where the spec asks for it: how often each side is slow (docs/analysis.md, "Latency").

Slow is an answer whose service time, as the servers report it, lies above a bound of the pods' histograms: the first
at or above `margin` times stable's own quantile from before the rollout. The bound is fixed once for an attempt.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace

from modelramp.api.spec import Latency
from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain.counts import Counts, Unevenness, interval
from modelramp.domain.evidence import EvidenceState, Settings, update
from modelramp.domain.metric import NO_SPLIT, BySide, Memory, by_container, report
from modelramp.domain.router import Tally
from modelramp.domain.turn import Turn
from modelramp.domain.world import Pod

LATENCY = "latency"
SIDES = ("candidate", "stable")

BEYOND = 10
"""A quantile is known once so many answers lie beyond it."""
LOOKS_TO_FAIL = 8
"""No look brings more than this part of what a Fail takes: a pause of one side's pods is one bad moment, however many
requests it delays, and pauses that last for several looks are not rare."""

Histogram = Mapping[float, int]


@dataclass(frozen=True)
class Known:
    """What is slow, in seconds, for this attempt; what the spec asked when that was fixed; and stable's Unevenness."""

    quantile: float
    margin: float
    threshold: float
    looks: int = 0
    squares: float = 0.0

    @classmethod
    def of(cls, noted: Mapping[str, float], asked: Latency) -> "Known | None":
        """None where nothing was noted, or something else is asked now."""
        if noted.keys() != {each.name for each in fields(cls)}:
            return None
        known = cls(**{**noted, "looks": int(noted["looks"])})  # type: ignore[arg-type]
        return known if (known.quantile, known.margin) == (asked.quantile, asked.margin) else None

    def settings(self, alpha: float) -> Settings:
        """The candidate's quantile is within the threshold exactly if at most 1 - quantile of its answers are over."""
        return Settings(
            alpha=alpha,
            objective=round(1 - self.quantile, 6),
            event=f"took over {shown(self.threshold)} in",
            most_per_look=-math.log(alpha) / LOOKS_TO_FAIL,
        )


def look(turn: Turn, before: EvidenceStatus | None, tally: Tally, alpha: float, asked: Latency) -> EvidenceStatus:
    """The evidence after this look. The look that fixes what is slow counts nothing: it is the baseline."""
    memory = Memory.load(before.state if before else "", SIDES)
    known = Known.of(memory.noted, asked)
    if known is None:
        return first_look(turn, tally, alpha, asked)
    current = slow_by_side(tally, known.threshold)
    fresh = {side: interval(memory.counters[side], current[side], tally.born) for side in SIDES}
    uneven = Unevenness(known.looks, known.squares).add(fresh["stable"])
    rules = known.settings(alpha)
    state = update(
        memory.state,
        None if tally.missing else fresh["candidate"],
        None if tally.missing else fresh["stable"],
        uneven.index(memory.state.stable + fresh["stable"]),
        rules,
    )
    noted = asdict(replace(known, looks=uneven.looks, squares=uneven.squares))
    evidence = report(turn, LATENCY, before, state, rules, fresh["candidate"].requests)
    remembered = memory.advance(state, current, noted, turn.world.pods)
    return evidence.model_copy(update={"threshold_seconds": known.threshold, "state": remembered})


def first_look(turn: Turn, tally: Tally, alpha: float, asked: Latency) -> EvidenceStatus:
    """Fixes what is slow, or says why that can't be told yet."""
    own = stables_own(tally.stable, turn.candidate.salt, enough(asked.quantile))
    answers, needed, name = sum(own.values()), enough(asked.quantile), f"p{100 * asked.quantile:g}"
    if not tally.stable:
        return unknown(turn, Verdict.ERROR, "no stable pod tells its service times: nothing can be judged")
    if answers < needed:
        message = (
            f"what is slow is not known yet: stable's {name} needs {needed} service times, and there are {answers}"
        )
        return unknown(turn, Verdict.INCONCLUSIVE, message)
    slow_above = threshold(own, asked)
    if slow_above is None:
        message = f"stable's {name} times {asked.margin:g} is beyond the pods' histograms: it can't be judged"
        return unknown(turn, Verdict.INCONCLUSIVE, message)
    known = Known(asked.quantile, asked.margin, slow_above)
    evidence = report(turn, LATENCY, None, EvidenceState(), known.settings(alpha), 0)
    current = slow_by_side(tally, slow_above)
    usual = shown(quantile(own, asked.quantile))
    message = f"{asked.margin:g} times stable's {name} of {usual}, or the next bound above it"
    changes = {
        "message": f"slow is over {shown(slow_above)} from now on: {message}",
        "threshold_seconds": slow_above,
        "state": Memory.new(SIDES).advance(EvidenceState(), current, asdict(known), turn.world.pods),
    }
    return evidence.model_copy(update=changes)


def unknown(turn: Turn, verdict: Verdict, message: str) -> EvidenceStatus:
    return EvidenceStatus(metric=LATENCY, verdict=verdict, message=message, looked_at=turn.now)


def enough(wanted: float) -> int:
    """How many service times tell a quantile."""
    return round(BEYOND / (1 - wanted))


def stables_own(pods: Collection[Pod], attempt: str, needed: int) -> Histogram:
    """Stable's answers before the rollout, per bucket; if those are too few, with its own share of this attempt."""
    before = [c.stable_service for c in by_container(pods, NO_SPLIT).values()]
    if sum(each.get(math.inf, 0) for each in before) >= needed:
        return per_bucket(before)
    return per_bucket([*before, *(c.stable_service for c in by_container(pods, attempt).values())])


def per_bucket(histograms: Iterable[Histogram]) -> Histogram:
    """Answers in each bucket, by its upper bound, over all pods: their bounds may differ."""
    total: dict[float, int] = defaultdict(int)
    for cumulative in histograms:
        below = 0
        for bound, count in sorted(cumulative.items()):
            total[bound] += count - below
            below = count
    return total


def quantile(answers: Histogram, wanted: float) -> float:
    """Interpolated within its bucket, as Prometheus' histogram_quantile does. Infinite beyond the last bound."""
    rank = wanted * sum(answers.values())
    below, lower = 0, 0.0
    for bound, count in sorted(answers.items()):
        if count and below + count >= rank:
            return bound if bound == math.inf else lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return math.inf


def threshold(own: Histogram, asked: Latency) -> float | None:
    """The bound above which an answer is slow; None where the histograms do not reach so far."""
    least = asked.margin * quantile(own, asked.quantile)
    return min((bound for bound in own if least <= bound < math.inf), default=None)


def slow_by_side(tally: Tally, above: float) -> BySide:
    """Both sides' answers of the attempt, and the slow ones among them, by container."""
    now = tally.counters
    return {
        "candidate": {k: slow(c.candidate_service, above) + slow(c.shadow_service, above) for k, c in now.items()},
        "stable": {k: slow(c.stable_service, above) for k, c in now.items()},
    }


def slow(cumulative: Histogram, above: float) -> Counts:
    """A pod that lacks the bound is asked for its next one above: it measures both sides alike."""
    answers = cumulative.get(math.inf, 0)
    within = min((count for bound, count in cumulative.items() if bound >= above), default=answers)
    return Counts(answers, answers - within)


def shown(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
