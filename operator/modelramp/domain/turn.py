"""The scratch pad of one decision: the status as it grows, the events, the next wake-up."""

from datetime import datetime, timedelta
from typing import Any

from modelramp.api.status import MAX_HISTORY, CandidateStatus, HistoryEntry, Phase, StableStatus, Status
from modelramp.domain.snapshot import Decision, Snapshot
from modelramp.domain.world import Event, World


class Turn:
    """Mutable, but only within one call of decide()."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snap = snapshot
        self.status: Status = snapshot.status
        self.events: list[Event] = []
        self.held = False  # by a gate or a freeze window, in this decision
        self._wake: timedelta | None = None

    @property
    def now(self) -> datetime:
        return self.snap.now

    @property
    def world(self) -> World:
        return self.snap.world

    @property
    def candidate(self) -> CandidateStatus:
        """The candidate, in phases that have one. Raises ValueError in one that has none."""
        if self.status.candidate is None:
            raise ValueError(f"phase {self.status.phase} without a candidate")
        return self.status.candidate

    @property
    def stable(self) -> StableStatus:
        """What serves, where something does. Raises ValueError where nothing does yet."""
        if self.status.stable is None:
            raise ValueError(f"phase {self.status.phase} without a stable revision")
        return self.status.stable

    @property
    def stable_revision(self) -> str | None:
        return self.status.stable.revision if self.status.stable else None

    def set(self, **changes: Any) -> None:
        self.status = self.status.model_copy(update=changes)

    def enter(self, phase: Phase) -> None:
        """A change of phase is acted on before anything else is decided."""
        self.set(phase=phase)
        self.wake_in(timedelta(0))

    def say(self, reason: str, message: str) -> None:
        """Where it stands and why; shown as a column."""
        self.set(reason=reason, message=message)

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        """A Kubernetes Event, once this decision is carried out."""
        self.events.append(Event("Warning" if warning else "Normal", reason, message))

    def record(
        self,
        action: str,
        reason: str,
        message: str,
        revision: str,
        version: int,
        attempt: int,
        *,
        warning: bool = False,
    ) -> None:
        """A decision worth remembering: history and event."""
        entry = HistoryEntry(
            at=self.now,
            action=action,
            reason=reason,
            message=message,
            revision=revision,
            version=version,
            attempt=attempt,
        )
        self.set(history=[*self.status.history, entry][-MAX_HISTORY:])
        self.tell(action, message, warning=warning)

    def record_candidate(self, action: str, reason: str, message: str, *, warning: bool = False) -> None:
        it = self.candidate
        self.record(action, reason, message, it.revision, it.version, it.attempt, warning=warning)

    def wake_in(self, delay: timedelta) -> None:
        """Asks to be looked at again after `delay`; the earliest wish wins."""
        delay = max(delay, timedelta(0))
        self._wake = delay if self._wake is None else min(self._wake, delay)

    def over(self, start: datetime, duration: timedelta) -> bool:
        """Whether `duration` has passed since `start`; if not, asks to be woken when it has."""
        left = start + duration - self.now
        if left <= timedelta(0):
            return True
        self.wake_in(left)
        return False

    def decision(self) -> Decision:
        return Decision(self.status, tuple(self.events), self._wake)
