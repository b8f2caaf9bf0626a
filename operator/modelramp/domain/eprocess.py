"""Anytime-valid tests on counters: the arithmetic under evidence.py.

A rollout is looked at every few seconds, and a p-value that is looked at often enough dips below any
threshold. An e-process E may be looked at after every interval, for ever: starting at 1, it reaches 1/alpha
with probability at most alpha as long as its null hypothesis is true (Ville's inequality). All three kinds of
evidence here are products of likelihood ratios, averaged over several alternatives. Everything is in natural
logarithms; every log-increment may be divided by a dispersion d >= 1 (E[L^(1/d)] <= E[L]^(1/d) <= 1, so what
is valid stays so).

Sources: Turner, Ly and Grunwald, arXiv 2106.02693 (two proportions); Lindon et al., arXiv 2205.14762 (the
conditional binomial on counts); Howard and Ramdas (time-uniform bounds); Shin, Ramdas and Rinaldo,
e-detectors, arXiv 2203.03532 (mixture over starting times).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelramp.domain.counts import Counts

CERTAIN = 1.0 - 1e-9
"""The highest rate a bound is sought at; above it nothing is certified."""


def log_sum_exp(terms: Sequence[float]) -> float:
    """log(sum(exp(t))) without overflow; -inf stands for log 0. At least one of `terms` is finite."""
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms))


def ratio_increment(candidate: Counts, stable: Counts, rho: float, null: float) -> float:
    """Log-likelihood ratio of "candidate's rate is rho times stable's" against "null times".

    Given the interval's bad answers, the candidate's share of them is binomial with
    theta(rho) = rho n_c / (rho n_c + n_s): the common rate drops out and may drift. 0 where a side is idle.
    """
    bad = candidate.bad + stable.bad
    if not bad or not candidate.requests or not stable.requests:
        return 0.0
    spread = (rho * candidate.requests + stable.requests) / (null * candidate.requests + stable.requests)
    return candidate.bad * math.log(rho / null) - bad * math.log(spread)


def rate_increment(requests: float, bad: float, rate: float, null: float) -> float:
    """Log-likelihood ratio of "the rate is `rate`" against "it is `null`" (both in (0, 1))."""
    return bad * math.log(rate / null) + (requests - bad) * (math.log1p(-rate) - math.log1p(-null))


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One alternative of the Fail test, mixed over the look at which the trouble may have begun.

    With weights w_k = 1/((k+1)(k+2)), which sum to 1, the mixture over the starts so far obeys
    M_t = (M_{t-1} + w_t) L_t, so one number is its whole memory. The other four are the expected counts since
    the start, under the posterior over starts that M implies: they tell the rate of what is going on *now*.
    """

    log_m: float = -math.inf
    candidate_requests: float = 0.0
    candidate_bad: float = 0.0
    stable_requests: float = 0.0
    stable_bad: float = 0.0

    def advance(self, look: int, increment: float, candidate: Counts, stable: Counts) -> Suspicion:
        """Take look number `look` (from 0), whose log-likelihood ratio is `increment`."""
        log_m = log_sum_exp((self.log_m, -math.log((look + 1) * (look + 2))))
        kept = math.exp(self.log_m - log_m)
        return Suspicion(
            log_m + increment,
            kept * self.candidate_requests + candidate.requests,
            kept * self.candidate_bad + candidate.bad,
            kept * self.stable_requests + stable.requests,
            kept * self.stable_bad + stable.bad,
        )


def log_suspicion(log_ms: Sequence[float], looks: int) -> float:
    """log E of the Fail test after `looks` looks: the alternatives' M, by weights that sum to 1; the starts still to
    come count as 1."""
    return log_sum_exp((*log_ms, -math.log(looks + 1)))


def least(reached: Callable[[int], bool], limit: int) -> int | None:
    """The smallest n in 1..limit with `reached(n)`, which stays true once it is; None if there is none."""
    high = 1
    while not reached(high):
        if high >= limit:
            return None
        high = min(2 * high, limit)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def upper_rate(log_e: Callable[[float], float], threshold: float) -> float:
    """The smallest rate p from which on log_e(p) >= threshold; 1.0 if nothing is certified.

    `log_e(p)` is the evidence against "the rate is p or more"; it must rise with p.
    """
    low, high = 0.0, CERTAIN
    if log_e(high) < threshold:
        return 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (low, middle) if log_e(middle) >= threshold else (middle, high)
    return high
