"""What the evidence says now: Pass, Fail, Inconclusive or Error, with the numbers and a sentence.

Fail: worse than stable beyond chance, and over the limit. Pass: certified under the limit. The limit is the
larger of the objective and `margin` times stable's rate; the latter counts as half-way from stable's rate to 1 at most.
How and why: docs/analysis.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from modelramp.domain.eprocess import (
    Suspicion,
    least,
    log_sum_exp,
    log_suspicion,
    rate_increment,
    upper_rate,
)
from modelramp.domain.evidence import BELOW_RATE, BELOW_STABLE, COMPARABLE, WORSE, EvidenceState, Settings

FAR = 10**9
"""No forecast goes beyond so many requests."""


class Outcome(StrEnum):
    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says now. Rates are bad per request, over the whole analysis.

    requests_needed: further candidate requests until a Pass if none of them is bad; 0 once passed.
    requests_needed_at_this_rate: the same if both sides go on as so far; None if that leads to no Pass.
    certified_rate: upper bound of the candidate's rate with confidence 1 - alpha, at all looks at once.
    e_fail, e_pass: the e-processes; 1/alpha decides. reason: one sentence with the numbers.
    """

    outcome: Outcome
    reason: str
    candidate_rate: float
    stable_rate: float
    certified_rate: float
    e_fail: float
    e_pass: float
    requests_needed: int | None
    requests_needed_at_this_rate: int | None


def verdict(state: EvidenceState, settings: Settings) -> Verdict:
    """Judge what has been gathered. A Fail needs the evidence and a rate, since the trouble began, over the
    limit; a look without data gives Error, whatever stood before it; Fail beats Pass."""
    log_fail = log_suspicion(_weighted(state), state.telling_looks)
    if_good = _pass_terms(state, settings, 0.0)
    log_pass = log_sum_exp([now for now, _ in if_good])
    if state.missing:
        outcome = Outcome.ERROR
    elif log_fail >= settings.threshold and _over_limit(state, settings):
        outcome = Outcome.FAIL
    elif log_pass >= settings.threshold:
        outcome = Outcome.PASS
    else:
        outcome = Outcome.INCONCLUSIVE
    needed = _needed(if_good, settings.threshold)
    certified = upper_rate(lambda rate: _log_below(state, rate), settings.threshold)
    return Verdict(
        outcome=outcome,
        reason=_reason(outcome, state, settings, needed, certified),
        candidate_rate=state.candidate.rate,
        stable_rate=state.stable.rate,
        certified_rate=certified,
        e_fail=_exp(log_fail),
        e_pass=_exp(log_pass),
        requests_needed=needed,
        requests_needed_at_this_rate=_needed(_pass_terms(state, settings, state.candidate.rate), settings.threshold),
    )


def _weighted(state: EvidenceState) -> list[float]:
    return [math.log(weight) + each.log_m for (_, weight), each in zip(WORSE, state.worse, strict=True)]


def _present(state: EvidenceState) -> Suspicion:
    """The likeliest alternative: its counts since the trouble began are those to look at."""
    _, likeliest = max(zip(_weighted(state), state.worse, strict=True), key=lambda pair: pair[0])
    return likeliest


def limit(stable_rate: float, settings: Settings) -> float:
    """What a candidate may fail, beside a stable that fails so much."""
    return max(settings.objective, min(settings.margin * stable_rate, (1 + stable_rate) / 2))


def _over_limit(state: EvidenceState, settings: Settings) -> bool:
    present = _present(state)
    stable_rate = (
        present.stable_bad / present.stable_requests
        if present.stable_requests >= COMPARABLE * present.candidate_requests
        else state.stable.rate
    )
    return present.candidate_bad > limit(stable_rate, settings) * present.candidate_requests


def _pass_terms(state: EvidenceState, settings: Settings, rate: float) -> list[tuple[float, float]]:
    """The mixture against "the rate is the objective or more, and `margin` times stable's or more".

    Per alternative: log of weighted E now, and what one further candidate request at `rate` adds on average
    while stable goes on as so far.
    """
    null = settings.objective
    terms = [
        (
            math.log(weight) + rate_increment(state.effective_requests, state.effective_bad, factor * null, null),
            rate_increment(1.0, rate, factor * null, null) / state.dispersion,
        )
        for factor, weight in BELOW_RATE
    ]
    null = settings.margin
    share = state.stable.requests / state.candidate.requests if state.candidate.requests else 0.0
    bad = rate + share * state.stable.rate
    for (factor, weight), log_e in zip(BELOW_STABLE, state.below_stable, strict=True):
        gain = rate * math.log(factor) - bad * math.log((null * factor + share) / (null + share))
        terms.append((math.log(weight) + log_e, gain / state.dispersion))
    return terms


def _log_below(state: EvidenceState, rate: float) -> float:
    """log E against "the candidate's rate is `rate` or more", by the candidate's own counts."""
    return log_sum_exp(
        [
            math.log(weight) + rate_increment(state.effective_requests, state.effective_bad, f * rate, rate)
            for f, weight in BELOW_RATE
        ]
        + [math.log(math.fsum(weight for _, weight in BELOW_STABLE))]
    )


def _needed(terms: list[tuple[float, float]], threshold: float) -> int | None:
    """How many further requests bring the mixture to `threshold`; None if it does not rise."""
    if log_sum_exp([now for now, _ in terms]) >= threshold:
        return 0
    if all(gain <= 0 for _, gain in terms):
        return None
    return least(lambda n: log_sum_exp([now + n * gain for now, gain in terms]) >= threshold, FAR)


def _reason(outcome: Outcome, state: EvidenceState, settings: Settings, needed: int | None, certified: float) -> str:
    if outcome is Outcome.ERROR:
        looks = "look" if state.missing == 1 else f"{state.missing} looks"
        return f"no data about candidate and stable in the last {looks}: nothing can be judged"
    confidence = f"with confidence {100 * (1 - settings.alpha):.4g} %"
    if outcome is Outcome.FAIL:
        return f"{_since_trouble(state, settings)}: worse {confidence}"
    sides = (
        f"candidate {settings.event} {_share(state.candidate.bad, state.candidate.requests)}, "
        f"stable {_share(state.stable.bad, state.stable.requests, '')}"
    )
    if outcome is Outcome.PASS:
        alone = certified <= settings.objective
        either = f"{percent(settings.objective)} or {settings.margin:g} times stable's"
        bound = percent(certified) if alone else either
        return f"{sides}: its rate is below {bound} {confidence}"
    return f"{sides}: not decided; {needed or 'too many'} more good ones would pass"


def _since_trouble(state: EvidenceState, settings: Settings) -> str:
    """The sides as they are since the trouble began, which may be long after the analysis did."""
    now = _present(state)
    candidate = _share(now.candidate_bad, now.candidate_requests)
    stable = f", stable {_share(now.stable_bad, now.stable_requests, '')}" if now.stable_requests else ""
    if now.candidate_requests < 0.75 * state.candidate.requests:
        return f"since it got worse, candidate {settings.event} about {candidate}{stable}"
    return f"candidate {settings.event} {candidate}{stable}"


def _share(bad: float, requests: float, noun: str = " requests") -> str:
    return f"{round(bad)} of {round(requests)}{noun} ({percent(bad / requests if requests else 0.0)})"


def percent(rate: float) -> str:
    percent = 100 * rate
    return f"{percent:.1f} %" if percent >= 1 or percent == 0 else f"{percent:.2g} %"


def _exp(log_e: float) -> float:
    return math.exp(min(log_e, 700.0))
