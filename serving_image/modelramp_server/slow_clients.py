"""Connections that wait for their client for too long: one that sends no whole head, one that takes no answer.

A look at all connections twice a second costs nothing on the way of a request, as timers of their own would. (That a
body comes in time is the matter of whoever reads it.)
"""

from collections.abc import Iterable
from typing import Protocol

_State = tuple[str, object]


class Connection(Protocol):
    """What is looked at: uvicorn's protocol object, as http_server.py has it."""

    def waits_for(self) -> _State | None:
        """What the client owes: its state, the same object as long as it is the same debt; None where it owes none."""

    def give_up(self) -> None:
        """End it, whether the client reads or not."""


class SlowClients:
    """Ends connections whose client has owed the same thing for `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[Connection, tuple[_State, float]] = {}

    def look(self, connections: Iterable[Connection], now: float) -> None:
        """One look at all of them. `now` is of a monotonic clock, in seconds."""
        owing: dict[Connection, tuple[_State, float]] = {}
        for connection in connections:
            state = connection.waits_for()
            if state is None:
                continue
            before = self._since.get(connection)
            since = before[1] if before is not None and before[0] == state else now
            if now - since >= self._patience:
                connection.give_up()
            else:
                owing[connection] = (state, since)
        self._since = owing
