"""Before anything is decided: what a bent clock or a lost status has garbled is put right from what is known."""

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from modelramp.api.status import MAX_REJECTED, Draining, Phase, Rejected, StableStatus
from modelramp.domain.moves import LONGEST_BACK_OFF, SHORTEST_DRAIN
from modelramp.domain.turn import Turn


def rebase_times(turn: Turn) -> None:
    """A time that lies ahead was written by a clock that ran ahead: it becomes now, and no timer waits for it."""
    status = turn.status
    changes: dict[str, Any] = {}
    for name in ("stable", "candidate", "step", "traffic", "service"):
        part = getattr(status, name)
        if part is not None and (late := _ahead(part, turn.now)):
            changes[name] = part.model_copy(update=dict.fromkeys(late, turn.now))
    if any(_ahead(e, turn.now) for e in status.evidence):
        changes["evidence"] = [
            e.model_copy(update=dict.fromkeys(_ahead(e, turn.now), turn.now)) for e in status.evidence
        ]
    latest = turn.now + max(turn.snap.spec.rollout.scale_down_delay, SHORTEST_DRAIN)
    if any(d.until > latest for d in status.draining):
        changes["draining"] = [d.model_copy(update={"until": min(d.until, latest)}) for d in status.draining]
    if status.guard is not None and status.guard.until > latest:
        changes["guard"] = status.guard.model_copy(update={"until": latest, "looked_at": None})
    if status.suspended_since is not None and status.suspended_since > turn.now:
        changes["suspended_since"] = turn.now
    if status.queued_at is not None and status.queued_at > turn.now:
        changes["queued_at"] = turn.now
    back_off = status.back_off
    if back_off is not None and back_off.until > turn.now + LONGEST_BACK_OFF:
        changes["back_off"] = back_off.model_copy(update={"until": turn.now + LONGEST_BACK_OFF})
    if changes:
        turn.set(**changes)


def _ahead(part: BaseModel, now: datetime) -> list[str]:
    return [name for name, value in part if isinstance(value, datetime) and value > now]


def adopt(turn: Turn) -> None:
    """With its status lost (re-created after an orphaning delete, restored from a backup), the object takes as
    stable what the main Service selects, and still knows what was rejected. Whatever else runs may have had a share:
    it goes when nobody sends it requests any more."""
    if turn.status.observed_generation >= 0 or turn.status.stable is not None:
        return
    revisions = turn.world.revisions
    rejected = [
        Rejected(revision=r.hash, version=r.model.version, reason=r.rejected, message=r.rejected_message, at=turn.now)
        for r in sorted(revisions.values(), key=lambda r: r.ordinal)
        if r.rejected
    ]
    generation = 1 + max((_generation(pod.split) for pod in turn.world.pods), default=0)
    traffic = turn.status.traffic.model_copy(update={"generation": generation})
    taken = {command.verb: command.value for command in turn.snap.commands}  # before the status was lost, perhaps
    turn.set(rejected=rejected[-MAX_REJECTED:], traffic=traffic, commands=taken)
    selected = revisions.get(turn.world.selected or "")
    if selected is None:
        return
    until = turn.now + SHORTEST_DRAIN
    others = sorted(turn.world.workloads.keys() - {selected.hash})
    turn.set(
        stable=StableStatus(revision=selected.hash, version=selected.model.version, since=turn.now),
        draining=[Draining(revision=revision, until=until, generation=generation) for revision in others],
    )
    turn.enter(Phase.STABLE)
    message = f"version {selected.model.version} (revision {selected.hash}) was serving and serves on"
    turn.record("Adopted", "StatusLost", message, selected.hash, selected.model.version, 1)


def _generation(split: str) -> int:
    """The generation in a split annotation as it stands on a pod; 0 if there is none."""
    try:
        return int(json.loads(split)["generation"])
    except (ValueError, KeyError, TypeError):
        return 0
