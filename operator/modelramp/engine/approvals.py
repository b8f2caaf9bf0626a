"""Approvals that other systems send: each waits for the pass that takes it, so that its sender hears what became of it.

Nothing is remembered. One that the process loses was not answered, and its sender asks again; one that was answered
is in the status.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from modelramp.api.status import Status
from modelramp.domain.approval import why_not, words
from modelramp.domain.changes import recorded
from modelramp.domain.snapshot import Decision
from modelramp.domain.world import Approval
from modelramp.ports import Key

SECONDS = 10.0


class Busy(Exception):
    """No pass has taken the approval in time. ``str(error)`` says what to do."""


@dataclass(frozen=True)
class _Offer:
    approval: Approval
    answer: "asyncio.Future[str]"


class Approvals:
    """The Observer port; ``wake`` is called with a key that a pass is wanted of."""

    def __init__(self, wake: Callable[[Key], None] = lambda _: None, seconds: float = SECONDS) -> None:
        self._wake = wake
        self._seconds = seconds
        self._known: set[Key] = set()
        self._offers: dict[Key, _Offer] = {}

    async def offer(self, key: Key, approval: Approval) -> str:
        """Empty once the approval has counted, else why it does not. Raises Busy."""
        if key not in self._known:
            return f"there is no ModelDeployment {key.name} in namespace {key.namespace}"
        if key in self._offers:
            raise Busy("another approval of this object is being looked at; send it again")
        offer = _Offer(approval, asyncio.get_running_loop().create_future())
        self._offers[key] = offer
        self._wake(key)
        try:
            async with asyncio.timeout(self._seconds):
                return await offer.answer
        except TimeoutError as error:
            said = f"not taken within {self._seconds:.0f} s; the object may be suspended, or see the operator's log"
            raise Busy(said) from error
        finally:
            del self._offers[key]

    def offered(self, key: Key) -> Approval | None:
        """What the next pass over the object is to consider."""
        offer = self._offers.get(key)
        return offer.approval if offer else None

    def decided(self, key: Key, before: Status, decision: Decision) -> None:
        self._known.add(key)
        offer = self._offers.get(key)
        if offer is None or offer.answer.done():
            return
        taken = any(entry.message == words(offer.approval) for entry in recorded(before, decision.status))
        refused = why_not(decision.status, offer.approval)
        if taken or refused:
            offer.answer.set_result("" if taken else refused)

    def gone(self, key: Key) -> None:
        self._known.discard(key)
        offer = self._offers.get(key)
        if offer is not None and not offer.answer.done():
            offer.answer.set_result("the object was deleted")
