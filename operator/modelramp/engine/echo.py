"""Whether the watch still shows what happens: a status that was written must come back through it.

A watch may die without an error, on a connection that nobody closes. Nothing else would tell.
"""

from modelramp.ports import Clock, Key


class Echo:
    """Keys whose status was written and not seen since, by when that was."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._awaited: dict[Key, float] = {}

    def expect(self, key: Key) -> None:
        """A write of this object begins. Called before it: the watch may be faster than the answer."""
        self._awaited.setdefault(key, self._clock.monotonic())

    def heard(self, key: Key) -> None:
        """The watch has shown the object; or nothing was written after all."""
        self._awaited.pop(key, None)

    def silence(self) -> float:
        """Seconds since the oldest write that the watch has not shown."""
        return max((self._clock.monotonic() - since for since in self._awaited.values()), default=0.0)
