"""Notifications, against a receiver on the loopback: what it is sent, and what happens when it will not have it."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from modelramp.adapters.notifier import FIRST_BACK_OFF, MOST_WAITING, TRIES, Notifier, Target
from tests.unit.simulation import SPEC, Behaviour, Operator, SimulatedWorld, run

EVENTS = frozenset({"Promoted", "Rejected"})


class Receiver:
    """Answers with ``answers`` in turn, then with 200; ``counted`` and ``slept`` are the notifier's."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.counted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.slept: list[float] = []
        self.world = SimulatedWorld(SPEC)
        self.server: TestServer

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        status = self.answers.pop(0) if self.answers else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    def notifier(self, secret: Path | None = None, events: frozenset[str] = EVENTS, url: str = "") -> Notifier:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        target = Target(url or str(self.server.make_url("/hook?token=hidden")), events, secret)
        return Notifier(target, self.world, lambda *what: self.counted.put_nowait(what), sleep)

    async def ended(self, notifier: Notifier, count: int) -> list[str]:
        """The outcomes of the next ``count`` notifications."""
        delivery = asyncio.create_task(notifier.run())
        outcomes = [(await self.counted.get())[1] for _ in range(count)]
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
        return outcomes

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/hook", receiver.take)
    async with TestServer(application) as receiver.server:
        yield receiver


async def first_revision(receiver: Receiver, notifier: Notifier) -> None:
    await run(receiver.world, Operator(receiver.world, [notifier]), 10)


async def test_the_receiver_is_told_of_the_decisions_it_wants(receiver: Receiver) -> None:
    notifier, world = receiver.notifier(), receiver.world
    world.behaviours[2] = Behaviour(bad_rate=0.2)
    operator = Operator(world, [notifier])
    await run(world, operator, 10)
    world.aliases["prod"] = 2
    await run(world, operator, 60)
    assert await receiver.ended(notifier, 2) == ["delivered", "delivered"]
    promoted, rejected = receiver.bodies()
    last = world.status["history"][-1]
    assert (promoted["action"], promoted["version"], promoted["stable"]["version"]) == ("Promoted", 1, 1)
    assert rejected.pop("id") != promoted["id"]
    assert rejected == {
        "time": last["at"],
        "object": {"namespace": "shop", "name": "digits"},
        "action": "Rejected",
        "reason": "AnalysisFailed",
        "message": last["message"],
        "phase": "Stable",
        "revision": last["revision"],
        "version": 2,
        "attempt": 1,
        "stable": {k: world.status["stable"][k] for k in ("revision", "version")},
    }


async def test_a_star_is_all_actions(receiver: Receiver) -> None:
    notifier = receiver.notifier(events=frozenset({"*"}))
    await first_revision(receiver, notifier)
    await receiver.ended(notifier, 2)
    assert [body["action"] for body in receiver.bodies()] == ["CandidateStarted", "Promoted"]


async def test_timestamp_and_body_are_signed_with_the_key_as_it_is_now(receiver: Receiver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("old\n")
    notifier = receiver.notifier(secret)
    await first_revision(receiver, notifier)
    secret.write_text("new\n")
    await receiver.ended(notifier, 1)
    headers, body = receiver.requests[0]
    timestamp = headers["X-Modelramp-Timestamp"]
    assert int(timestamp) == int(receiver.world.time)
    expected = hmac.new(b"new", f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["X-Modelramp-Signature"] == f"sha256={expected}"


async def test_an_unwell_receiver_is_asked_again_with_back_off(receiver: Receiver) -> None:
    notifier = receiver.notifier()
    await first_revision(receiver, notifier)
    receiver.answers = [500, 429]
    assert await receiver.ended(notifier, 1) == ["delivered"]
    assert receiver.slept == [FIRST_BACK_OFF, FIRST_BACK_OFF * 2]
    assert len({body["id"] for body in receiver.bodies()}) == 1 and len(receiver.requests) == 3


@pytest.mark.parametrize(("answers", "asked"), [([400], 1), ([302], 1), ([503] * TRIES, TRIES)])
async def test_what_is_refused_or_too_long_in_vain_is_dropped(
    receiver: Receiver, answers: list[int], asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = receiver.notifier()
    await first_revision(receiver, notifier)
    receiver.answers = list(answers)
    assert await receiver.ended(notifier, 1) == ["dropped"]
    assert len(receiver.requests) == asked
    assert f"127.0.0.1 not told of Promoted: answered {answers[-1]}" in caplog.text
    assert "hidden" not in caplog.text, "an address may be a secret"


@pytest.mark.parametrize("content", [None, " \n"])
async def test_without_its_key_nothing_is_sent_unsigned(
    receiver: Receiver, tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    notifier = receiver.notifier(secret)
    await first_revision(receiver, notifier)
    assert await receiver.ended(notifier, 1) == ["dropped"]
    assert receiver.requests == [] and str(secret) in caplog.text


async def test_nobody_there_is_no_harm(receiver: Receiver) -> None:
    notifier = receiver.notifier(url="http://127.0.0.1:9/")
    await first_revision(receiver, notifier)
    assert await receiver.ended(notifier, 1) == ["dropped"]
    assert len(receiver.slept) == TRIES - 1


async def test_a_full_queue_drops_and_never_waits(receiver: Receiver) -> None:
    notifier = receiver.notifier(events=frozenset({"Promoted"}))
    for _ in range(MOST_WAITING):
        notifier._waiting.put_nowait({})
    await first_revision(receiver, notifier)
    assert receiver.counted.get_nowait() == ("127.0.0.1", "dropped")
