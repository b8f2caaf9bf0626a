"""The rollout, phase by phase: each looks at what has been observed, and moves on or says what it waits for."""

from modelramp.api.status import AbortStatus, Phase
from modelramp.domain import gates, queries
from modelramp.domain.admission import frozen, may_begin
from modelramp.domain.approval import STEP_PAUSES, why
from modelramp.domain.checks import (
    blind,
    broken,
    drifted,
    followed,
    holding,
    in_force,
    judged_bad,
    moved_on,
    overloaded,
    stable_is_down,
    unnamed,
    waiting_for_pods,
)
from modelramp.domain.moves import (
    NO_TIME,
    begin,
    came_back,
    conclude,
    enter_step,
    pause,
    promote,
    resume,
    step_index,
    taken_back,
    unresolved,
)
from modelramp.domain.promotion import hand_over, settle_as_stable
from modelramp.domain.rollback import gone_bad
from modelramp.domain.shadow import SHADOWING, impossible, unproven
from modelramp.domain.share import Share, held, wanted
from modelramp.domain.traffic import FULL, first_load, full_size, size_for
from modelramp.domain.turn import Turn
from modelramp.domain.unsplit import UNSUPPORTED, may_switch, straight_on, unsplit

# Without a rollout


def pending(turn: Turn) -> None:
    """Nothing serves yet: the first revision goes straight to stable, as there is nobody to compare it with."""
    target, candidate = turn.snap.target, turn.status.candidate
    if turn.world.foreign:
        return turn.say("NameConflict", f"{turn.world.foreign} exists and is not ours: rename one of the two")
    if target is not None and (candidate is None or candidate.revision != target.revision):
        begin(turn, target, Phase.PENDING)
        return gates.begun(turn)
    if candidate is None:
        return unresolved(turn)
    if gates.failed(turn):
        return
    ready, size = turn.world.ready(candidate.revision), turn.snap.spec.scaling.base_size
    if ready >= size:
        if gates.waiting(turn):
            return
        turn.record_candidate("Promoted", "FirstRevision", f"version {candidate.version} is the first and serves")
        return settle_as_stable(turn)
    return waiting_for_pods(turn, size)


def stable(turn: Turn) -> None:
    """Stable serves. Has it gone bad since it was promoted? Is something else asked for?"""
    if gone_bad(turn):
        return
    target, status = turn.snap.target, turn.status
    if target is None:
        return unresolved(turn)
    if status.stable is not None and target.revision == status.stable.revision:
        turn.set(back_off=None, queued_at=None)
        return turn.say("Serving", f"version {target.version} serves")
    rejected = next((r for r in status.rejected if r.revision == target.revision), None)
    if rejected is not None:
        turn.set(queued_at=None)
        message = f"version {rejected.version} ({rejected.reason}): {rejected.message}"
        if turn.status.reason != "Rejected":
            retry = f"kubectl annotate --overwrite mdep <name> modelramp.dev/retry={rejected.revision}#1"
            turn.tell("StaysRejected", f"version {rejected.version} is not tried again by itself; {retry}")
        return turn.say("Rejected", message)
    back_off = status.back_off
    if back_off is not None and back_off.revision == target.revision and not turn.over(back_off.until, NO_TIME):
        turn.set(queued_at=None)
        return turn.say("BackOff", back_off.message)
    if came_back(turn, target.revision) or may_begin(turn):
        begin(turn, target, Phase.GATING)
        gates.begun(turn)


# On the way


def gating(turn: Turn) -> None:
    """The candidate starts; no traffic yet."""
    if moved_on(turn) or broken(turn) or unnamed(turn) or gates.failed(turn):
        return
    candidate = turn.candidate
    size = size_for(turn.snap.spec, turn.status, FULL if candidate.direct else first_load(turn.snap.spec))
    if turn.world.ready(candidate.revision) < size:
        return waiting_for_pods(turn, size)
    if candidate.direct:
        return promote(turn, f"version {candidate.version} served before: no steps")
    down = stable_is_down(turn)
    if gates.waiting(turn):
        return
    if down:
        return stand_in(turn)
    if queries.kept_back(turn):
        return
    turn.tell("CandidateReady", f"version {turn.candidate.version} is loaded and warm: its share begins")
    turn.say("Ramping", "the first step begins")
    enter_step(turn, 0, Phase.RAMPING)


def ramping(turn: Turn) -> None:
    """A step: its weight or shadow is brought into force, held, and judged."""
    if moved_on(turn) or broken(turn) or judged_bad(turn) or unnamed(turn):
        return
    if stable_is_down(turn):
        return stand_in(turn)
    if unsplit(turn):
        return straight_on(turn)
    if drifted(turn):
        return
    steps, index = turn.snap.spec.rollout.steps, step_index(turn)
    if index == len(steps):
        return conclude(turn)
    step = steps[index]
    if step.pause is not None:
        return pause(turn, *why(step.pause))
    share = wanted(step, held(turn.status))
    if impossible(turn, step, index) or not in_force(turn, share):
        return
    since = turn.status.step.in_force_since if turn.status.step else None
    if since is None or not turn.over(since, step.hold or NO_TIME):
        return turn.say(SHADOWING if share.shadow else "Holding", holding(turn, share))
    if blind(turn) or frozen(turn) or unproven(turn, step, holding(turn, share)):
        return
    if index + 1 < len(steps):
        turn.tell("StepDone", f"{share} held; nothing failed")
        return enter_step(turn, index + 1, Phase.RAMPING)
    conclude(turn)


def paused(turn: Turn) -> None:
    """The weight is held and judged on; a pause's own end or a command goes on."""
    if moved_on(turn) or broken(turn) or judged_bad(turn) or unnamed(turn):
        return
    held = turn.candidate.pause
    if held is None:
        return resume(turn, "nothing is to be waited for")
    turn.say(held.reason, held.message)
    if held.reason not in STEP_PAUSES or turn.status.step is None:
        return
    steps, index = turn.snap.spec.rollout.steps, step_index(turn)
    step = steps[index].pause if index < len(steps) else None
    if step is None:
        return resume(turn, "the pause is no longer among the steps")
    if (held.reason, held.message) != why(step):
        return pause(turn, *why(step))
    if step.duration is not None and turn.over(turn.status.step.entered_at, step.duration):
        resume(turn, "the pause is over")


def promoting(turn: Turn) -> None:
    """The candidate takes everything, with stable at hand; then it is stable, its pods untouched."""
    candidate = turn.candidate
    if moved_on(turn) or broken(turn) or (not candidate.direct and judged_bad(turn)) or unnamed(turn):
        return
    if stable_is_down(turn):
        return stand_in(turn)
    if candidate.direct:
        return come_back(turn)
    if unsplit(turn):
        return commit(turn, UNSUPPORTED) if may_switch(turn) else None
    if not in_force(turn, Share(FULL)):
        return
    since = turn.status.step.in_force_since if turn.status.step else None
    if since is None or not turn.over(since, turn.snap.spec.rollout.bake):
        return turn.say("Baking", f"version {candidate.version} answers everything, stable at hand")
    if not blind(turn) and not overloaded(turn):
        commit(turn, "StepsDone")


def come_back(turn: Turn) -> None:
    """What served before takes over with stable at hand; but a stable that does not say so is not waited for longer
    than its split would live."""
    step, candidate = turn.status.step, turn.candidate
    ready = turn.world.ready(candidate.revision) >= full_size(turn.snap.spec, turn.status)
    unheard = step is not None and turn.over(step.entered_at, turn.snap.policy.traffic_ttl)
    if in_force(turn, Share(FULL)) or (ready and unheard):
        commit(turn, "ServedBefore")


def stand_in(turn: Turn) -> None:
    """A candidate that has passed its gates is better than a stable that is down; nothing can be compared."""
    ready, size = turn.world.ready(turn.candidate.revision), full_size(turn.snap.spec, turn.status)
    if ready < size:
        return turn.say("StableDown", f"stable is down: {ready} of {size} pods are ready to stand in for it")
    turn.tell("StableDown", "stable is down, and nothing can be compared: the candidate stands in", warning=True)
    commit(turn, "StableDown")


def commit(turn: Turn, reason: str) -> None:
    turn.record_candidate("Promoted", reason, f"version {turn.candidate.version} serves")
    hand_over(turn)


def aborting(turn: Turn) -> None:
    """Weight 0 must be seen to hold before the candidate's pods go."""
    candidate = turn.candidate
    stop = candidate.abort or AbortStatus(reason="Aborted", message="taken back", reject=False)
    router, step = turn.snap.router, turn.status.step
    if step is not None and not followed(turn, step, router.withdrawn(turn)):
        router.renew(turn)
        return turn.say(stop.reason, f"{stop.message}; waiting for {router.awaited(turn)}")
    taken_back(turn, stop)
