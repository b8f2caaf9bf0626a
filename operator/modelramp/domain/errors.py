"""The metric that every rollout is judged by: how often each side fails."""

import math
from collections.abc import Collection
from dataclasses import replace

from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain.counts import NOTHING, BadWindow, Counts, dispersion_index, interval
from modelramp.domain.evidence import EvidenceState, Settings, update
from modelramp.domain.metric import Memory, refusals_as_bad, report
from modelramp.domain.router import Tally
from modelramp.domain.turn import Turn
from modelramp.domain.verdict import limit
from modelramp.domain.world import Pod, SplitCounts

ERRORS = "errors"
SIDES = ("candidate", "stable", "stable_refused", "dealt", "refused")
"""candidate, stable: evidence about each side, copies included. stable_refused: requests that stable refused, which are
none either. dealt: requests dealt, and those the candidate answered. refused: requests and copies dealt to the
candidate, and those that are no evidence because nobody took them.

What comes to mean something else takes another name, so that nobody goes on with another release's counts.
"""
REFUSED, DISPERSION, USUAL, LEFT, PARTIAL = "refused", "dispersion", "usual", "left", "partial"
"""Noted of stable: the requests that it refused, the index of dispersion of all that failed, refusals too, and the
share of its requests that it refused before it was relieved of any. Of the candidate: what it left to stable of late.
Of the look: whether a pod of one side did not tell.
"""
TELLING = 10  # refusals that tell a rate


def look(turn: Turn, before: EvidenceStatus | None, tally: Tally, alpha: float) -> tuple[EvidenceStatus, Counts]:
    """The evidence after this look, and the requests dealt since the last one with those the candidate answered: none
    where the last one had no numbers or either not all, for since when they are counted then is another matter."""
    memory = Memory.load(before.state if before else "", SIDES)
    current = {side: {k: count(side, c) for k, c in tally.counters.items()} for side in SIDES}
    born = tally.born
    if before is not None and memory.state == EvidenceState():  # another release has judged what they counted so far
        memory = replace(Memory.load(before.state, ()).of_stable(), counters=memory.counters)
        born = ()
    fresh = {side: interval(memory.counters[side], current[side], born) for side in SIDES}
    rules = settings(alpha, turn.snap.spec.rollout.analysis.objectives.error_rate)
    refused = fresh["refused"]
    blind = tally.missing or (refused.requests > 0 and refused.bad == refused.requests)
    state = update(
        memory.state,
        None if blind else fresh["candidate"],
        None if blind else fresh["stable"],
        dispersion_index(pooled(tally.stable)),
        rules,
        fresh["stable_refused"].requests,
    )
    noted = dict(memory.noted)
    if USUAL not in noted and not tally.missing:
        noted[USUAL] = usual(turn)
    noted[PARTIAL] = float(tally.partial)
    noted[LEFT] = refused.bad / refused.requests if refused.requests else 0.0
    if not blind:
        clustered = dispersion_index(pooled(refusals_as_bad(tally.stable)))
        noted |= {REFUSED: noted.get(REFUSED, 0) + fresh["stable_refused"].requests, DISPERSION: clustered}
    remembered = memory.advance(state, current, noted, turn.world.pods)
    evidence = report(turn, ERRORS, before, state, rules, fresh["candidate"].requests)
    message = evidence.message
    if noted.get(REFUSED):
        message += f"; stable refused {noted[REFUSED]:.0f} more (503)"
    uneven = memory.state.missing or memory.noted.get(PARTIAL) or tally.partial
    return evidence.model_copy(update={"state": remembered, "message": message}), NOTHING if uneven else fresh["dealt"]


def accepted(turn: Turn) -> EvidenceState:
    """What this rollout has accepted of stable, refusals too: nobody answers in the place of what comes after it. What
    stable refused under the whole load counts as if it had gone on."""
    memory = memory_of(turn)
    usually = min(memory.noted.get(USUAL, 0.0), 0.99)
    whole = round(memory.state.stable.requests * usually / (1 - usually))
    refused = max(int(memory.noted.get(REFUSED, 0)), whole)
    return EvidenceState(
        stable=memory.state.stable + Counts(refused, refused),
        dispersion=memory.noted.get(DISPERSION, memory.state.dispersion),
    )


def of_stable(turn: Turn) -> EvidenceStatus:
    """What is known of stable alone, for a candidate beside which it will get no requests that tell more."""
    state = memory_of(turn).of_stable().dump()
    return EvidenceStatus(metric=ERRORS, verdict=Verdict.INCONCLUSIVE, state=state)


def overload(turn: Turn) -> str:
    """What a candidate that is given everything leaves to stable, where that is more than would be accepted of it once
    there is nobody to leave it to; empty: it bears the load."""
    left, asked = memory_of(turn).noted.get(LEFT, 0.0), turn.snap.spec.rollout.analysis
    if left <= limit(accepted(turn).stable.rate, settings(asked.alpha, asked.objectives.error_rate)):
        return ""
    return f"the candidate refuses {100 * left:.3g} % of all requests, with all its pods"


def memory_of(turn: Turn) -> Memory:
    return Memory.load(next((e.state for e in turn.status.evidence if e.metric == ERRORS), ""), ())


def usual(turn: Turn) -> float:
    """Which share of its requests stable has refused so far: of all its life, or in the window of the last hour, if so
    many came in it as in any other; the smaller one. So an overload of long ago makes it no larger, nor does an hour of
    many requests. 0 where there were too few to tell."""
    requests = refused = in_window = refused_in_window = 0.0
    for metrics in (pod.metrics for pod in turn.world.pods_of(turn.stable_revision) if pod.metrics is not None):
        own = metrics.splits.values()
        of_all = sum(c.stable_ok + c.stable_bad + c.stable_refused for c in own)
        age = max(turn.now.timestamp() - metrics.started, metrics.bad_seconds, 1.0)
        requests += of_all
        refused += sum(c.stable_refused for c in own)
        in_window += of_all * metrics.bad_seconds / age
        refused_in_window += metrics.failed_sum - metrics.bad_sum
    if min(refused, refused_in_window) < TELLING or not in_window:
        return 0.0
    return min(refused / requests, refused_in_window / in_window)


def settings(alpha: float, objective: float) -> Settings:
    """The test of a candidate while stable is at hand. No look fails it alone: what starves its pods for a second fails
    many requests at once, and tells nothing of the model."""
    return Settings(alpha=alpha, objective=objective, most_per_look=-math.log(alpha))


def count(side: str, c: SplitCounts) -> Counts:
    """One side's counters as requests and, among them, those that matter (see SIDES)."""
    unanswered = c.candidate_error + c.candidate_skipped
    to_candidate = c.candidate_ok + c.candidate_bad + unanswered
    copies, lost = c.shadow_ok + c.shadow_bad, c.shadow_error + c.shadow_skipped
    match side:
        case "candidate":
            return Counts(c.candidate_ok + c.candidate_bad + copies, c.candidate_bad + c.shadow_bad)
        case "stable":
            return Counts(c.stable_ok + c.stable_bad, c.stable_bad)
        case "stable_refused":
            return Counts(c.stable_refused, c.stable_refused)
        case "dealt":
            return Counts(to_candidate + c.stable_ok + c.stable_bad + c.stable_refused, c.candidate_ok)
        case _:
            return Counts(to_candidate + copies + lost, unanswered + lost)


def pooled(pods: Collection[Pod]) -> list[BadWindow]:
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
