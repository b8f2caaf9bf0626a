"""Shadowing over real sockets: copies go out, answers stay stable's, and nothing that the candidate does is felt."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelramp.adapters.exposition import pod_metrics
from modelramp.api.shadow import Shadow as Rules
from modelramp.desired import split as desired
from modelramp_server.relay import shadow
from tests.server import candidate_stub
from tests.server.candidate_stub import Behaviour, Candidate, answer, says
from tests.server.served import OWN, Served, eventually, split
from tests.server.test_relay import Pair, from_stable

INFER = "/v2/models/digits/infer"
TWO = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]}
BAD = {"inputs": []}


def found(value: float) -> bytes:
    return json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [value]}]}).encode()


AGREES, DISAGREES = says(answer(body=found(20.0))), says(answer(body=found(90.0)))
PACKED = says(answer(extra="content-encoding: br\r\n"))


@pytest.fixture
def candidate() -> Iterator[Candidate]:
    stub = Candidate()
    stub.behave = AGREES
    yield stub
    stub.stop()


@pytest.fixture
def pair(start: Any, lookup_model: Path, candidate: Candidate, tmp_path: Path) -> Pair:
    file = tmp_path / "split"
    file.write_text("")
    server = start(lookup_model, candidate_url=candidate.url, traffic_file=file)
    return Pair(server, file)


def copy(pair: Pair, share: int = 100, weight: int = 0) -> None:
    pair.weigh(weight, shadow={"share": share, "tolerance": 0.01, "iou": 0.9})


def ask(pair: Pair, count: int = 1, body: Any = TWO) -> list[Any]:
    """Answers; all copies are over when it returns."""
    replies = [pair.server.call("POST", INFER, body) for _ in range(count)]
    settled(pair.server)
    return replies


def settled(server: Served) -> None:
    eventually(lambda: server.metric("modelramp_shadow_inflight") == 0)


def compared(pair: Pair) -> dict[str, int]:
    results = ("agree", "disagree", "incomparable")
    read = {r: int(pair.server.metric("modelramp_shadow_answers_total", salt="s1", result=r)) for r in results}
    return {result: count for result, count in read.items() if count}


def test_a_copy_goes_out_and_stable_answers(pair: Pair, candidate: Candidate) -> None:
    copy(pair)
    sent = json.dumps(TWO).encode()
    reply = pair.server.call("POST", f"{INFER}?a=b", sent, {"x-request-id": "7"})
    settled(pair.server)
    assert from_stable(reply) and reply.headers["x-modelramp-revision"] == OWN
    assert "x-modelramp-net" not in reply.headers
    head = candidate.heads[0].lower()
    assert head.startswith(f"post /bbbbbbbb{INFER}?a=b http/1.1") and candidate.bodies == [sent]
    assert f"x-modelramp-relayed: {OWN}" in head and "x-request-id: 7" in head
    assert (pair.counted("shadow"), pair.counted("stable"), pair.counted("candidate")) == ({"ok": 1}, {"ok": 1}, {})
    assert compared(pair) == {"agree": 1}
    assert pair.server.metric("modelramp_split_service_seconds_sum", side="shadow") == pytest.approx(0.0075)
    assert pair.server.metric("modelramp_traffic_shadow") == 100
    assert pair.server.metric("modelramp_traffic_weight") == 0
    assert pair.server.metric("modelramp_requests_total") == 1, "the client asked once"


def test_operator_and_server_mean_the_same(pair: Pair, candidate: Candidate) -> None:
    copies = desired.shadow(100, Rules(tolerance=0.05, mask_overlap=0.7))
    pair.generation += 1
    pair._file.write_text(desired.split(pair.generation, "bbbbbbbb", 0, "s1", timedelta(minutes=2), copies=copies))
    eventually(lambda: pair.server.metric("modelramp_traffic_generation") == pair.generation)
    near = says(answer(body=found(20.9)))
    for behave in (AGREES, near, DISAGREES, says(answer(500)), PACKED, says(answer(503))):
        candidate.behave = behave
        ask(pair)
    read = pod_metrics(pair.server.call("GET", "/metrics").body.decode())
    assert (read.generation, read.weight, read.shadow) == (pair.generation, 0, 100)
    counts = read.splits["s1"]
    assert (counts.shadow_ok, counts.shadow_bad, counts.shadow_error) == (4, 1, 1)
    assert (counts.agree, counts.disagree, counts.incomparable) == (2, 1, 1)
    assert (counts.stable_ok, counts.candidate_ok) == (6, 0)
    assert max(counts.shadow_service.values()) == 4


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("share", [1, 20, 100])
def test_the_share_is_exact(pair: Pair, candidate: Candidate, share: int) -> None:
    copy(pair, share)
    replies = [reply for _ in range(10) for reply in ask(pair, 10)]  # more copies than AT_ONCE would be skipped
    assert len(replies) == 100 and all(map(from_stable, replies))
    assert len(candidate.heads) == share
    assert pair.counted("shadow") == {"ok": share} and pair.counted("stable") == {"ok": 100}


CASES: list[tuple[str, Behaviour, dict[str, int], dict[str, int]]] = [
    ("answers otherwise", DISAGREES, {"ok": 1}, {"disagree": 1}),
    ("answers in no known form", PACKED, {"ok": 1}, {"incomparable": 1}),
    ("answers no V2", says(answer(body=b"{}")), {"bad": 1}, {}),
    ("500", says(answer(500)), {"bad": 1}, {}),
    ("503 full", says(answer(503)), {"error": 1}, {}),
    ("400 where stable accepts", says(answer(400)), {"bad": 1}, {}),
    ("resets", candidate_stub.resets, {"bad": 1}, {}),
    ("answers half JSON", says(answer(body=b'{"outputs": [')), {"bad": 1}, {}),
    ("hangs", candidate_stub.hangs, {"slow": 1}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("behave", "counted", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_whatever_the_candidate_does_is_counted_and_never_felt(
    pair: Pair, candidate: Candidate, behave: Behaviour, counted: dict[str, int], says: dict[str, int]
) -> None:
    copy(pair)
    candidate.behave = behave
    (reply,) = ask(pair)
    assert from_stable(reply) and "x-modelramp-net" not in reply.headers
    assert (pair.counted("shadow"), compared(pair)) == (counted, says)
    assert pair.counted("stable") == {"ok": 1}
    assert pair.server.metric("modelramp_bad_window_sum") == 0


def test_a_candidate_that_can_not_be_reached_is_no_evidence(pair: Pair, candidate: Candidate) -> None:
    copy(pair)
    candidate.refuse()
    assert from_stable(*ask(pair))
    assert pair.counted("shadow") == {"error": 1}


def test_a_refusal_that_stable_shares_is_neutral(pair: Pair, candidate: Candidate) -> None:
    copy(pair)
    candidate.behave = says(answer(422, b'{"error": "from the candidate"}'))
    (reply,) = ask(pair, body=BAD)
    assert reply.status == 400 and "candidate" not in reply.json["error"]
    assert pair.counted("shadow") == {"neutral": 1} and compared(pair) == {}


def test_an_answer_to_what_stable_refuses_is_not_compared(pair: Pair) -> None:
    copy(pair)
    ask(pair, body=BAD)
    assert pair.counted("shadow") == {"ok": 1} and compared(pair) == {}


class Gate:
    """The candidate answers nobody before it is opened."""

    def __init__(self, candidate: Candidate) -> None:
        self._open = asyncio.Event()
        self._loop = candidate._loop
        candidate.behave = self.behave

    async def behave(self, writer: asyncio.StreamWriter) -> bool:
        await self._open.wait()
        return await AGREES(writer)

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)


@pytest.mark.usefixtures("patient")
def test_no_answer_waits_for_its_copy(pair: Pair, candidate: Candidate) -> None:
    gate = Gate(candidate)
    copy(pair)
    assert all(from_stable(pair.server.call("POST", INFER, TWO)) for _ in range(3))
    eventually(lambda: len(candidate.heads) == 3)
    assert pair.server.metric("modelramp_shadow_inflight") == 3, "all are answered, and no copy is over"
    assert pair.counted("shadow") == {}
    gate.open()
    settled(pair.server)
    assert pair.counted("shadow") == {"ok": 3} and compared(pair) == {"agree": 3}


@pytest.mark.usefixtures("patient")
def test_copies_are_bounded_in_number(pair: Pair, candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "AT_ONCE", 2)
    gate = Gate(candidate)
    copy(pair)
    assert all(from_stable(pair.server.call("POST", INFER, TWO)) for _ in range(5))
    assert pair.server.metric("modelramp_shadow_inflight") == 2
    assert pair.counted("shadow") == {"skipped": 3}
    gate.open()
    settled(pair.server)
    assert pair.counted("shadow") == {"ok": 2, "skipped": 3} and len(candidate.heads) == 2
    ask(pair)
    assert pair.counted("shadow") == {"ok": 3, "skipped": 3}, "there is room again"


def test_copies_are_bounded_in_size(pair: Pair, candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(pair)
    monkeypatch.setattr(shadow, "BODY_LIMIT", 10)
    ask(pair)
    assert pair.counted("shadow") == {"skipped": 1} and candidate.heads == []
    monkeypatch.undo()
    monkeypatch.setattr(shadow, "INFLIGHT_LIMIT", len(json.dumps(TWO)))
    ask(pair)
    assert pair.counted("shadow") == {"skipped": 2} and candidate.heads == []
    monkeypatch.undo()
    candidate.behave = says(answer(body=b'{"x": "' + b"x" * shadow.BODY_LIMIT + b'"}'))
    ask(pair)
    assert pair.counted("shadow") == {"skipped": 3}, "the candidate's own answer is too large to hold"


def test_room_that_a_copy_took_is_given_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "INFLIGHT_LIMIT", 1000)
    copy(pair)
    for _ in range(10):
        ask(pair)
    assert pair.counted("shadow") == {"ok": 10}


def test_large_answers_are_compared_off_the_loop(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    real = shadow.compare

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(shadow, "compare", noted)
    monkeypatch.setattr(shadow, "_OFF_LOOP", 10)
    copy(pair)
    ask(pair)
    assert compared(pair) == {"agree": 1} and threads[0].startswith("shadow")


def test_copies_end_with_the_ttl(pair: Pair, candidate: Candidate) -> None:
    clock = [time.monotonic()]
    pair.server.service.traffic._clock = lambda: clock[0]
    copy(pair)
    ask(pair)
    clock[0] += 121
    assert pair.server.metric("modelramp_traffic_shadow") == 0
    assert from_stable(*ask(pair)) and len(candidate.heads) == 1


def test_only_what_is_answered_here_and_may_be_relayed_is_copied(pair: Pair, candidate: Candidate) -> None:
    copy(pair)
    pair.server.call("POST", INFER, TWO, {"x-modelramp-relayed": "cccccccc"})
    pair.server.call("POST", "/v2/models/digits/versions/3/infer", TWO)
    settled(pair.server)
    assert candidate.heads == [] and pair.counted("shadow") == {}
    copy(pair, share=100, weight=50)
    ask(pair, 10)
    assert pair.counted("candidate") == {"ok": 5} and pair.counted("shadow") == {"ok": 5}


def test_a_split_without_shadow_copies_nothing(pair: Pair, candidate: Candidate) -> None:
    copy(pair)
    pair.weigh(0)
    ask(pair, 3)
    assert candidate.heads == [] and pair.server.metric("modelramp_traffic_shadow") == 0


def test_mlflows_json_is_compared_too(pair: Pair, candidate: Candidate) -> None:
    copy(pair)
    for value in (20.0, 30.0):
        candidate.behave = says(answer(body=json.dumps({"predictions": {"y": [value]}}).encode()))
        reply = pair.server.call("POST", "/invocations", {"instances": [2]})
        settled(pair.server)
        assert reply.status == 200
    own = Counter(reply.json["predictions"].keys()) if isinstance(reply.json["predictions"], dict) else Counter()
    assert own == {"y": 1}
    assert compared(pair) == {"agree": 1, "disagree": 1}


@pytest.mark.parametrize(
    "wrong", [{"share": 0}, {"share": 101}, {"tolerance": -1}, {"iou": 0}, {"iou": 1.5}, {"share": "20"}]
)
def test_a_shadow_that_can_not_be_read_means_no_split(pair: Pair, wrong: dict[str, Any]) -> None:
    shadowed = {"share": 20, "tolerance": 0.01, "iou": 0.9, **wrong}
    pair._file.write_text(split(2, 50, shadow=shadowed))
    eventually(lambda: pair.server.metric("modelramp_traffic_unreadable_total") == 1)
    assert pair.server.metric("modelramp_traffic_generation") == 0
