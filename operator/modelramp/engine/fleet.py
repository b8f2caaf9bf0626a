"""The fleet in memory: which objects have a rollout, which wait for one; and who is to look again when that changes.

It is made of the statuses as they were last read or decided, and filled before anything may begin. A decision counts
from the moment it is taken, before it is written: two passes at once cannot take one place.
"""

from collections.abc import Callable, Mapping, Sequence

from modelramp.api.status import Status
from modelramp.domain.fleet import Limits, Member, Name, Standing, in_line, member, places
from modelramp.domain.freeze import Freeze, frozen_until
from modelramp.ports import Clock, Key

NEAR = (
    10  # places at the front of the line that are told at once when it moves; the others, when they are next looked at
)
NOBODY = Member()


class Fleet:
    """``wake`` is called with the keys that may begin, and those near."""

    def __init__(
        self,
        clock: Clock,
        limits: Limits | None = None,
        freezes: Sequence[Freeze] = (),
        wake: Callable[[Key], None] | None = None,
    ) -> None:
        self._clock = clock
        self._limits = limits or Limits()
        self._freezes = freezes
        self._wake = wake or (lambda _: None)
        self._members: dict[Name, Member] = {}

    def note(self, key: Key, status: Status) -> None:
        """How the object stands now, as read or as decided."""
        self._put(key, member(status))

    def forget(self, key: Key) -> None:
        """The object is gone, or cannot be worked on."""
        self._put(key, NOBODY)

    def standing(self, key: Key, status: Status) -> Standing:
        """What it may do now, were it to ask."""
        until = frozen_until(self._freezes, key.namespace, self._clock.now())
        if not self._limits or status.candidate is not None:
            return Standing(None, until)
        me = Member(queued_at=status.queued_at or self._clock.now())
        members = {**self._thawed(), key: me}
        return Standing(places(members, in_line(members), self._limits)[key], until)

    def _put(self, key: Key, now: Member) -> None:
        if not self._limits:
            return
        before = self._members.pop(key, NOBODY)
        if now != NOBODY:
            self._members[key] = now
        if before not in (NOBODY, now):
            self._wake_front()

    def _wake_front(self) -> None:
        members = self._thawed()
        line = in_line(members)
        found = places(members, line, self._limits)
        for position, name in enumerate(line):
            if position < NEAR or found[name] is None:
                self._wake(Key(*name))

    def _thawed(self) -> Mapping[Name, Member]:
        """Without those who wait in a frozen namespace: nobody is to wait for them."""
        now = self._clock.now()
        waiting = {name[0] for name, it in self._members.items() if it.queued_at}
        frozen = {namespace for namespace in waiting if frozen_until(self._freezes, namespace, now)}
        return {name: it for name, it in self._members.items() if it.rolling or name[0] not in frozen}
