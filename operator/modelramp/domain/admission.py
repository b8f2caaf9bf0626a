"""What an administrator may hold back: the beginning of a rollout, and the rise of a weight."""

from modelramp.api.status import Phase
from modelramp.domain.fleet import FROZEN, QUEUED, WAITING
from modelramp.domain.turn import Turn


def may_begin(turn: Turn) -> bool:
    """Whether a rollout may begin now; if not, it has a place in line, and says what it waits for."""
    place = turn.snap.standing.place
    if place is None and turn.snap.standing.frozen_until is None:
        turn.set(queued_at=None)
        return True
    turn.set(queued_at=turn.status.queued_at or turn.now)
    if not frozen(turn) and place is not None:
        turn.say(QUEUED, f"{ordinal(place.position)} of {place.waiting} waiting; limit {place.limit}")
    return False


def frozen(turn: Turn) -> bool:
    """Whether a freeze window is open; it says until when."""
    until = turn.snap.standing.frozen_until
    if until is None:
        return False
    turn.wake_in(until - turn.now)
    turn.held = True
    end = until.isoformat(sep=" ", timespec="minutes")
    turn.say(FROZEN, f"a freeze window is open until {end}: no rollout begins, no weight rises")
    return True


def may_rise(turn: Turn) -> bool:
    """Whether the candidate may be given a higher weight now. A person who commands its promotion is obeyed, and what
    served before may always come back."""
    if turn.candidate.direct or (turn.status.phase is Phase.PROMOTING and turn.candidate.obeyed):
        return True
    return not frozen(turn)


def waits(turn: Turn) -> bool:
    """A change that waits for its turn has not been acted on: who waits for it (Flux, say) is to go on waiting."""
    return turn.status.candidate is None and turn.status.reason in WAITING


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th ..."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else suffix}"
