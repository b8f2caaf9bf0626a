"""The table of what the candidate did, what the client gets, and how it counts (design: the safety net). Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The label `outcome` of `modelramp_split_requests_total`."""

    OK = "ok"
    BAD = "bad"
    SLOW = "slow"
    NEUTRAL = "neutral"
    ERROR = "error"
    SKIPPED = "skipped"
    REFUSED = "refused"


class Net(StrEnum):
    """Why stable answered in the candidate's place: the header `x-modelramp-net`."""

    STATUS = "status"
    SLOW = "slow"
    BROKEN = "broken"
    DISAGREES = "disagrees"
    REFUSED = "refused"
    FULL = "full"
    BREAKER = "breaker"
    SIZE = "size"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a request dealt to the candidate counts; `net` is None where the client gets the candidate's answer."""

    outcome: Outcome
    net: Net | None


FAILURES = {
    Net.SLOW: Verdict(Outcome.SLOW, Net.SLOW),
    Net.BROKEN: Verdict(Outcome.BAD, Net.BROKEN),
    Net.REFUSED: Verdict(Outcome.ERROR, Net.REFUSED),
    Net.BREAKER: Verdict(Outcome.SKIPPED, Net.BREAKER),
    Net.SIZE: Verdict(Outcome.SKIPPED, Net.SIZE),
}
# The client has passed this pod's own check, so the two pods' keys or limits differ: that is not the model's doing.
_NOT_LET_IN = (401, 403, 429)


def judge(status: int) -> Verdict | None:
    """The verdict on a whole answer of the candidate, by its HTTP status; None where stable must be asked (4xx)."""
    if 200 <= status < 300:
        return Verdict(Outcome.OK, None)
    if status in _NOT_LET_IN:
        return Verdict(Outcome.ERROR, Net.REFUSED)
    if 400 <= status < 500:
        return None
    if status == 503:
        return Verdict(Outcome.ERROR, Net.FULL)
    return Verdict(Outcome.BAD, Net.STATUS)


def judge_refusal(stable_status: int) -> Verdict:
    """The verdict on a candidate's 4xx, by what stable said to the same request."""
    if 200 <= stable_status < 300:
        return Verdict(Outcome.BAD, Net.DISAGREES)
    return Verdict(Outcome.NEUTRAL, None)


def judge_local(status: int, late: bool = False) -> Outcome:
    """How an answer of stable to a request dealt to stable counts; `late`: its client's time was over before it had all
    come."""
    if late and status in (503, 504):
        return Outcome.NEUTRAL
    if status == 503:
        return Outcome.REFUSED
    if status >= 500:
        return Outcome.BAD
    return Outcome.OK if status < 400 else Outcome.NEUTRAL


def endangers_stable(outcome: Outcome) -> bool:
    """Whether a run of this outcome opens the breaker: it ties up stable's connections and time."""
    return outcome in (Outcome.SLOW, Outcome.ERROR)
