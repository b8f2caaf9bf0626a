"""How long the candidate may take: long enough to be fair, short enough that stable can still answer. Pure."""

import math

_TIMES_P99 = 10.0
_AT_LEAST = 1.0
_STEP = 0.25  # seconds. The candidate is told its budget: heads that are alike are not parsed anew (connection.py)


def candidate_budget(left: float, stable_p99: float, candidate_p99: float) -> float:
    """Seconds for the candidate's whole answer: min(left - stable's p99, left / 2, max(10 x candidate's p99, 1 s)), the
    last in steps.

    Half is stable's whatever its p99: one answer in a hundred takes longer than that, and more do where a hanging
    candidate's requests come back together. A candidate without a p99 yet gets stable's. 0 where too little is left for
    both sides to answer, so that a client with a tight budget is no evidence against the candidate.

    Args:
        left: seconds left of the request's budget.
        stable_p99: seconds.
        candidate_p99: seconds; 0 while unknown.
    """
    expected = candidate_p99 or stable_p99
    spare = min(left - stable_p99, left / 2)
    wanted = max(math.ceil(_TIMES_P99 * expected / _STEP) * _STEP, _AT_LEAST)
    if spare >= wanted:
        return wanted
    return spare if spare > 2 * expected and spare > 0 else 0.0
