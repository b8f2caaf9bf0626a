"""What other systems may send to the operator: who is believed, what it does, and what everybody else is told."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from modelramp.domain.world import Approval
from modelramp.edge import signatures
from modelramp.edge.webhooks import MOST_BYTES, Approver, Webhooks
from modelramp.engine.approvals import Approvals, Busy
from modelramp.ports import Key
from tests.unit.simulation import KEY, SPEC, Operator, SimulatedWorld, run, serves, until
from tests.unit.test_approval import at_the_gate, revision

BODY = b'{"entity": "model_version_alias", "action": "created"}'


class Bench:
    """Webhooks under test: ``nudged`` registries; a clock; keys in files."""

    def __init__(self, folder: Path) -> None:
        self.world = SimulatedWorld({"model": {"name": "digits", "alias": "prod"}})
        self.mlflow, self.clinic = folder / "mlflow", folder / "clinic"
        self.mlflow.write_text("key of mlflow\n")
        self.clinic.write_text("key of the clinic")
        approvers = {"clinic": Approver(self.clinic, ("shop", "team-*"))}
        self.webhooks = Webhooks(self.world, {"default": self.mlflow}, approvers)
        self.nudged: list[str] = []
        self.approvals = Approvals(seconds=0.01)
        self.client: TestClient[Any, Any] = TestClient(TestServer(self.webhooks.application()))

    def lead(self, approvals: Approvals | None = None) -> None:
        self.webhooks.lead(self.nudged.append, approvals or self.approvals)

    async def deliver(self, body: bytes = BODY, key: str = "key of mlflow", **changed: str) -> tuple[int, str]:
        """As MLflow does."""
        fields = {"delivery": "d1", "timestamp": str(int(self.world.time)), **changed}
        content = f"{fields['delivery']}.{fields['timestamp']}.".encode() + body
        digest = hmac.new(key.encode(), content, hashlib.sha256).digest()
        headers = {
            "X-MLflow-Delivery-Id": fields["delivery"],
            "X-MLflow-Timestamp": fields["timestamp"],
            "X-MLflow-Signature": fields.get("signature", f"v1,{base64.b64encode(digest).decode()}"),
        }
        answer = await self.client.post("/registries/default", data=body, headers=headers)
        return answer.status, await answer.text()

    async def approve(self, said: Any, path: str = "clinic", key: str = "key of the clinic") -> ClientResponse:
        body, timestamp = json.dumps(said).encode(), str(int(self.world.time))
        digest = hmac.new(key.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers = {"X-Modelramp-Timestamp": timestamp, "X-Modelramp-Signature": f"sha256={digest}"}
        return await self.client.post(f"/approvals/{path}", data=body, headers=headers)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    async with bench.client:
        yield bench


async def test_a_signed_delivery_has_the_registry_asked_once(bench: Bench) -> None:
    bench.lead()
    assert await bench.deliver() == (200, "the registry is asked\n")
    assert await bench.deliver() == (200, "taken before\n")
    assert bench.nudged == ["default"]
    await bench.deliver(delivery="d2")
    assert bench.nudged == ["default"] * 2


async def test_what_is_not_signed_by_the_key_does_nothing(bench: Bench) -> None:
    bench.lead()
    for changed in ({"key": "another"}, {"signature": "v1,AAAA"}, {"signature": "v2,é"}):
        status, text = await bench.deliver(**changed)
        assert (status, text) == (401, "the signature is not by the key that the operator has\n")
    answer = await bench.client.post("/registries/default", data=BODY)
    assert answer.status == 401 and "X-MLflow-Signature is missing" in await answer.text()
    assert bench.nudged == []


@pytest.mark.parametrize("of", ["body", "delivery", "timestamp"])
async def test_a_signature_is_for_all_of_the_request(bench: Bench, of: str) -> None:
    bench.lead()
    timestamp = str(int(bench.world.time))
    digest = hmac.new(b"key of mlflow", f"d1.{timestamp}.".encode() + BODY, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    changed = {"body": {"body": BODY + b" "}, "delivery": {"delivery": "d2"}, "timestamp": {"timestamp": "1000001"}}
    status, _ = await bench.deliver(**{"signature": signature, **changed[of]})  # type: ignore[arg-type]
    assert status == 401 and bench.nudged == []
    assert (await bench.deliver(signature=signature))[0] == 200


@pytest.mark.parametrize("off", [-301, 301])
async def test_an_old_delivery_is_refused_and_so_is_one_from_the_future(bench: Bench, off: int) -> None:
    bench.lead()
    status, text = await bench.deliver(timestamp=str(int(bench.world.time) + off))
    assert status == 401 and "301 s off; 300 s at most" in text
    assert (await bench.deliver(timestamp=str(int(bench.world.time) + off * 299 // 301)))[0] == 200


async def test_a_delivery_is_known_again_as_long_as_its_time_would_pass(bench: Bench) -> None:
    bench.lead()
    ahead = str(int(bench.world.time) + 300)
    await bench.deliver(timestamp=ahead)
    bench.world.time += 599
    assert await bench.deliver(timestamp=ahead) == (200, "taken before\n")
    bench.world.time += 2
    assert (await bench.deliver(timestamp=ahead))[0] == 401


async def test_so_many_deliveries_are_remembered_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MOST_SEEN", 2)
    bench.lead()
    for delivery in ("1", "2", "3"):
        await bench.deliver(delivery=delivery)
    assert [(await bench.deliver(delivery=it))[1] for it in ("3", "2")] == ["taken before\n"] * 2
    assert len(bench.webhooks._window._seen) == 2


async def test_what_is_not_a_time_or_too_large_is_said(bench: Bench) -> None:
    bench.lead()
    assert await bench.deliver(timestamp="now") == (400, "the timestamp is not in whole seconds since 1970\n")
    status, text = await bench.deliver(b" " * (MOST_BYTES + 1))
    assert (status, text) == (413, f"the body is larger than {MOST_BYTES} bytes\n")
    assert bench.nudged == []


async def test_a_replaced_key_counts_at_once_and_without_one_nothing_is_taken(bench: Bench) -> None:
    bench.lead()
    bench.mlflow.write_text("new key")
    assert (await bench.deliver())[0] == 401
    assert (await bench.deliver(key="new key"))[0] == 200
    bench.mlflow.write_text(" \n")
    assert await bench.deliver(key="", delivery="d2") == (503, "the operator cannot read its key; its log has more\n")
    bench.mlflow.unlink()
    assert (await bench.deliver(delivery="d3"))[0] == 503
    assert bench.nudged == ["default"]


async def test_who_does_not_lead_says_so_and_the_same_delivery_counts_elsewhere(bench: Bench) -> None:
    answer = await bench.client.post("/registries/default", data=BODY)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Connection"] == "close" and "does not lead" in await answer.text()
    bench.lead()
    assert (await bench.deliver())[0] == 200


async def test_nobody_else_is_listened_to(bench: Bench) -> None:
    bench.lead()
    for path in ("/registries/other", "/approvals/other"):
        answer = await bench.client.post(path, data=BODY)
        assert answer.status == 404 and "'other'" in await answer.text()
    assert (await bench.client.get("/registries/default")).status == 405
    assert not Webhooks(bench.world, {}, {}) and bench.webhooks


async def approving(bench: Bench, world: SimulatedWorld, operator: Any, **changed: Any) -> tuple[int, str]:
    """Sends it while the operator makes its passes."""
    said = {"namespace": "shop", "name": "digits", "revision": revision(world), "attempt": 1, **changed}
    answer = asyncio.create_task(bench.approve(said))
    while not answer.done():
        await run(world, operator, 0.5)
        await asyncio.sleep(0)
    return (await answer).status, await (await answer).text()


async def test_an_approval_goes_on_and_says_so_when_it_is_written(bench: Bench) -> None:
    world, operator = await at_the_gate()
    operator.approvals._seconds = 30
    bench.lead(operator.approvals)
    assert await approving(bench, world, operator) == (200, "approved\n")
    assert world.status["phase"] == "Ramping"
    assert ("Resumed", "approved by clinic") in [(h["action"], h["message"]) for h in world.status["history"]]
    status, text = await approving(bench, world, operator)
    assert status == 409 and ("does not wait" in text or "answered before" in text)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"revision": "00000000"}, "the candidate is revision"),
        ({"attempt": 2}, "attempt 1"),
        ({"name": "other"}, "there is no ModelDeployment other in namespace shop"),
    ],
)
async def test_an_approval_of_something_else_does_not_count(bench: Bench, changed: dict[str, Any], said: str) -> None:
    world, operator = await at_the_gate()
    operator.approvals._seconds = 30
    bench.lead(operator.approvals)
    status, text = await approving(bench, world, operator, **changed)
    assert status == 409 and said in text
    await run(world, operator, 10)
    assert world.status["reason"] == "AwaitingApproval"


async def test_nothing_is_approved_where_nothing_is_asked() -> None:
    world = SimulatedWorld(SPEC)
    operator = Operator(world)
    await until(world, operator, serves(1))
    offer = asyncio.create_task(operator.approvals.offer(KEY, Approval("clinic", "3f2a9c01", 1)))
    await asyncio.sleep(0)
    await operator.step()
    assert await offer == "there is no candidate"
    world.aliases["prod"] = 2
    await until(world, operator, lambda status: status["reason"] == "Holding")
    offer = asyncio.create_task(operator.approvals.offer(KEY, Approval("clinic", revision(world), 1)))
    await asyncio.sleep(0)
    await operator.step()
    assert await offer == "the candidate does not wait for an approval: Ramping, Holding"


async def test_an_approver_approves_only_its_own_steps_and_namespaces(bench: Bench) -> None:
    world, operator = await at_the_gate()
    operator.approvals._seconds = 30
    bench.webhooks._approvers = {**bench.webhooks._approvers, "legal": Approver(bench.clinic)}  # type: ignore[dict-item]
    bench.lead(operator.approvals)
    said = {"namespace": "shop", "name": "digits", "revision": revision(world), "attempt": 1}
    answer = asyncio.create_task(bench.approve(said, "legal"))
    while not answer.done():
        await run(world, operator, 0.5)
        await asyncio.sleep(0)
    assert (await answer).status == 409 and "the approval 'clinic'" in await (await answer).text()
    refused = await bench.approve({**said, "namespace": "other"})
    assert (refused.status, await refused.text()) == (403, "clinic may not approve in namespace other\n")
    assert world.status["reason"] == "AwaitingApproval"


async def test_an_approval_given_before_it_is_asked_for_cannot_be_sent_again(bench: Bench) -> None:
    bench.lead()
    said = {"namespace": "shop", "name": "digits", "revision": "3f2a9c01", "attempt": 1}
    assert (await bench.approve(said)).status == 409
    again = await bench.approve(said)
    assert again.status == 409 and "answered before" in await again.text()


@pytest.mark.parametrize("said", [{}, [], {"namespace": "shop", "name": "digits", "revision": 7, "attempt": 1}])
async def test_what_is_no_approval_is_said(bench: Bench, said: Any) -> None:
    bench.lead()
    answer = await bench.approve(said)
    assert answer.status == 400 and "namespace, name, revision, attempt" in await answer.text()
    assert (await bench.approve(said, key="another")).status == 401


async def test_an_approval_that_no_pass_takes_may_be_sent_again(bench: Bench) -> None:
    world, _ = await at_the_gate()
    bench.approvals._known.add(KEY)
    bench.lead()
    said = {"namespace": "shop", "name": "digits", "revision": revision(world), "attempt": 1}
    for _ in range(2):
        answer = await bench.approve(said)
        assert answer.status == 503 and "suspended" in await answer.text()
    assert bench.approvals._offers == {}


async def test_two_approvals_of_an_object_at_once_are_one_after_the_other() -> None:
    approvals = Approvals()
    approvals._known.add(KEY)
    first = asyncio.create_task(approvals.offer(KEY, Approval("clinic", "3f2a9c01", 1)))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="another"):
        await approvals.offer(KEY, Approval("clinic", "3f2a9c01", 1))
    approvals.gone(KEY)
    assert await first == "the object was deleted"
    assert "no ModelDeployment" in await approvals.offer(Key("shop", "digits"), Approval("clinic", "3f2a9c01", 1))


async def test_a_suspended_object_takes_no_approval() -> None:
    world, operator = await at_the_gate()
    world.edit(suspend=True)
    await run(world, operator, 2)
    offer = asyncio.create_task(operator.approvals.offer(KEY, Approval("clinic", revision(world), 1)))
    for _ in range(5):
        await run(world, operator, 1)
        await asyncio.sleep(0)
    assert not offer.done() and world.status["reason"] == "Suspended"
    world.edit(suspend=False)
    await run(world, operator, 2)
    assert await offer == ""


async def test_an_abort_beats_an_approval() -> None:
    world, operator = await at_the_gate()
    offer = asyncio.create_task(operator.approvals.offer(KEY, Approval("clinic", revision(world), 1)))
    await asyncio.sleep(0)
    world.command("abort", f"{revision(world)}#1")
    await run(world, operator, 2)
    assert "does not wait for an approval: Aborting" in await offer
    await run(world, operator, 60)
    assert world.status["stable"]["version"] == 1
