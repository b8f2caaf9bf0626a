"""Commands people give by annotation: ``modelramp.dev/<verb>: <revision>#<nonce>``.

Each is bound to its target and taken once (status.commands remembers); a stale one does nothing. Abort beats
promote.
"""

from modelramp.api.status import Phase
from modelramp.domain import approval, moves, rollback
from modelramp.domain.turn import Turn
from modelramp.domain.world import Command

VERBS = ("abort", "pause", "resume", "approve", "promote", "retry", "rollback")
IN_ROLLOUT = (Phase.RAMPING, Phase.PAUSED, Phase.GATING, Phase.PROMOTING)


def obey(turn: Turn) -> bool:
    """Takes the commands that are new. True if one has moved the object, so that nothing else may this time."""
    fresh = [c for c in turn.snap.commands if c.verb in VERBS and turn.status.commands.get(c.verb) != c.value]
    if not fresh:
        return False
    for command in sorted(fresh, key=lambda c: VERBS.index(c.verb)):
        turn.set(commands={**turn.status.commands, command.verb: command.value})
        if _act(turn, command):
            return True
        turn.tell(
            "CommandIgnored",
            f"{command.verb} {command.revision}: that revision is not in a state to {command.verb}",
            warning=True,
        )
    return False


def approved(turn: Turn) -> bool:
    """Takes an approval of another system that fits what the rollout waits for. True if it has moved the object."""
    given = turn.snap.approval
    if given is None or approval.why_not(turn.status, given):
        return False
    moves.resume(turn, approval.words(given))
    return True


def _act(turn: Turn, command: Command) -> bool:
    if command.verb == "retry":
        return _retry(turn, command.revision)
    if command.verb == "rollback":
        return rollback.command(turn, command.revision)
    candidate = turn.status.candidate
    if candidate is None or candidate.revision != command.revision or turn.status.phase not in IN_ROLLOUT:
        return False
    match command.verb:
        case "abort":
            moves.abort(turn, "AbortCommanded", "taken back by command", reject=True)
        case "pause" if turn.status.phase is Phase.RAMPING:
            moves.pause(turn, moves.COMMANDED, "paused by command; resume goes on")
        case "approve" if approval.awaited(turn):
            moves.resume(turn, "approved")
        case "resume" if turn.status.phase is Phase.PAUSED and not approval.awaited(turn):
            moves.resume(turn, "resumed by command")
        case "promote" if turn.status.phase in (Phase.RAMPING, Phase.PAUSED, Phase.PROMOTING):
            if turn.status.phase is not Phase.PROMOTING:
                moves.promote(turn, "promoted by command")
            turn.set(candidate=turn.candidate.model_copy(update={"obeyed": True}))
        case _:
            return False
    return True


def _retry(turn: Turn, revision: str) -> bool:
    if all(r.revision != revision for r in turn.status.rejected):
        return False
    moves.lift(turn, revision)
    turn.tell("Retrying", f"revision {revision} may be tried again")
    turn.enter(turn.status.phase)
    return True
