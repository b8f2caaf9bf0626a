"""The safety net, over real sockets: whatever the candidate does, the client gets a right answer, counted rightly."""

import asyncio
import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modelramp_server.relay import client
from modelramp_server.relay.breaker import RUN
from tests.server import candidate_stub
from tests.server.candidate_stub import BODY, REVISION, Behaviour, Candidate, answer, says
from tests.server.served import OWN, Served, eventually, exchange, split

INFER = "/v2/models/digits/infer"
TWO = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]}
BAD = {"inputs": []}


@pytest.fixture
def candidate() -> Iterator[Candidate]:
    stub = Candidate()
    yield stub
    stub.stop()


class Pair:
    """A stable server with a split file, in front of a candidate."""

    def __init__(self, server: Served, file: Path) -> None:
        self.server = server
        self._file = file
        self.generation = 1

    def weigh(self, weight: int, **changes: Any) -> None:
        """Write a split and wait until the server acts on it."""
        self.generation += 1
        scratch = self._file.with_suffix(".new")
        scratch.write_text(split(self.generation, weight, **changes))
        scratch.replace(self._file)
        eventually(lambda: self.server.metric("modelramp_traffic_generation") == self.generation)

    def counted(self, side: str = "candidate") -> dict[str, int]:
        """Outcomes by count."""
        outcomes = ("ok", "bad", "refused", "slow", "neutral", "error", "skipped")
        read = {
            name: int(self.server.metric("modelramp_split_requests_total", side=side, outcome=name, salt="s1"))
            for name in outcomes
        }
        return {name: count for name, count in read.items() if count}


@pytest.fixture
def pair(start, lookup_model: Path, candidate: Candidate, tmp_path: Path) -> Pair:
    file = tmp_path / "split"
    file.write_text("")
    server = start(lookup_model, candidate_url=candidate.url, traffic_file=file)
    return Pair(server, file)


def from_stable(reply: Any) -> bool:
    return bool(reply.status == 200 and reply.json["outputs"][0]["data"] == [20.0])


def test_a_relayed_answer_is_the_candidates_byte_for_byte(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    sent = json.dumps(TWO).encode()
    headers = {"x-request-id": "7", "connection": "keep-alive, x-mine", "accept": "application/json"}
    reply = pair.server.call("POST", f"{INFER}?a=b%20c", sent, headers)
    assert (reply.status, reply.body) == (200, BODY)
    assert reply.headers["x-modelramp-revision"] == REVISION and reply.headers["x-modelramp-version"] == "4"
    assert "x-modelramp-net" not in reply.headers
    head = candidate.heads[0].lower()
    assert head.startswith(f"post /{REVISION}{INFER}?a=b%20c http/1.1") and candidate.bodies == [sent]
    assert f"x-modelramp-relayed: {OWN}" in head and "x-request-id: 7" in head and "x-request-timeout: " in head
    assert "user-agent" not in head and "x-mine" not in head
    assert "accept-encoding" not in head, "stable compresses what its client gets"
    assert pair.counted() == {"ok": 1}
    assert pair.server.metric("modelramp_split_service_seconds_sum", side="candidate") == pytest.approx(0.0075)


CASES: list[tuple[str, Behaviour, dict[str, int], str]] = [
    ("500", says(answer(500)), {"bad": 1}, "status"),
    ("504", says(answer(504)), {"bad": 1}, "status"),
    ("a redirect", says(answer(302, extra="location: /elsewhere\r\n")), {"bad": 1}, "status"),
    ("503 full", says(answer(503)), {"error": 1}, "full"),
    ("400 where stable accepts", says(answer(400)), {"bad": 1}, "disagrees"),
    ("404 where stable accepts", says(answer(404)), {"bad": 1}, "disagrees"),
    ("resets", candidate_stub.resets, {"bad": 1}, "broken"),
    ("closes", candidate_stub.closes, {"bad": 1}, "broken"),
    ("truncates", says(answer(length=500), then_close=True), {"bad": 1}, "broken"),
    ("says less than it sends", says(answer(length=5)), {"bad": 1}, "broken"),
    ("is no HTTP", says(b"hello\r\n\r\n", then_close=True), {"bad": 1}, "broken"),
    ("has two lengths", says(answer(extra="content-length: 3\r\n"), then_close=True), {"bad": 1}, "broken"),
    ("answers half JSON", says(answer(body=b'{"outputs": [')), {"bad": 1}, "broken"),
    ("answers too few values", says(answer(body=BODY.replace(b"[1]", b"[2]"))), {"bad": 1}, "broken"),
    ("answers numbers as text", says(answer(body=BODY.replace(b"FP32", b"BYTES"))), {"bad": 1}, "broken"),
    ("breaks its chunks", says(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", then_close=True),
     {"bad": 1}, "broken"),
    ("hangs", candidate_stub.hangs, {"slow": 1}, "slow"),
    ("hangs in mid-answer", candidate_stub.hangs_after(answer(length=500)), {"slow": 1}, "slow"),
]  # fmt: skip


@pytest.mark.parametrize(("behave", "counted", "net"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_whatever_the_candidate_does_stable_answers(
    pair: Pair, candidate: Candidate, behave: Behaviour, counted: dict[str, int], net: str
) -> None:
    pair.weigh(100)
    candidate.behave = behave
    reply = pair.server.call("POST", INFER, TWO)
    assert from_stable(reply)
    assert (reply.headers["x-modelramp-revision"], reply.headers["x-modelramp-net"]) == (OWN, net)
    assert pair.counted() == counted and pair.counted("stable") == {}
    assert pair.server.metric("modelramp_bad_window_sum") == 0
    assert pair.server.metric("modelramp_relay_inflight") == 0


@pytest.mark.parametrize("told", ["1.2.3", ".", "9" * 400, "1e3", "soon", ""])
def test_a_service_time_that_is_none_costs_nobody_an_answer(pair: Pair, candidate: Candidate, told: str) -> None:
    """What the exchange took is counted then."""
    pair.weigh(100)
    candidate.behave = says(answer(extra=f"server-timing: service;dur={told}\r\n"))
    reply = pair.server.call("POST", INFER, TWO)
    assert (reply.status, reply.body) == (200, BODY)
    assert pair.counted() == {"ok": 1}
    took = pair.server.metric("modelramp_split_service_seconds_sum", side="candidate")
    assert 0 < took < 4 and took != 0.001


def test_a_refused_connection_is_no_evidence(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.refuse()
    reply = pair.server.call("POST", INFER, TWO)
    assert from_stable(reply) and reply.headers["x-modelramp-net"] == "refused"
    assert pair.counted() == {"error": 1}


def test_a_refusal_that_stable_shares_is_neutral(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.behave = says(answer(422, b'{"error": "from the candidate"}'))
    reply = pair.server.call("POST", INFER, BAD)
    assert (reply.status, reply.json["error"]) == (422, "from the candidate")
    assert reply.headers["x-modelramp-revision"] == REVISION
    assert pair.counted() == {"neutral": 1}


def test_an_answer_too_large_to_hold_is_served_here(pair: Pair, candidate: Candidate, monkeypatch) -> None:
    monkeypatch.setattr(client, "ANSWER_LIMIT", 10)
    pair.weigh(100)
    chunked = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n"
    for behave in (says(answer()), says(chunked)):
        candidate.behave = behave
        reply = pair.server.call("POST", INFER, TWO)
        assert from_stable(reply) and reply.headers["x-modelramp-net"] == "size"
    assert pair.counted() == {"skipped": 2}


def test_a_reused_connection_that_died_is_tried_again_on_a_fresh_one(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    assert pair.server.call("POST", INFER, TWO).body == BODY
    good, broken = candidate.behave, iter([candidate_stub.closes])

    async def once_broken(writer: asyncio.StreamWriter) -> bool:
        return await next(broken, good)(writer)

    candidate.behave = once_broken
    assert pair.server.call("POST", INFER, TWO).body == BODY
    assert (len(candidate.heads), candidate.connections) == (3, 2)
    assert pair.counted() == {"ok": 2}


def test_connections_are_pooled_and_renewed(pair: Pair, candidate: Candidate, monkeypatch) -> None:
    pair.weigh(100)
    for _ in range(3):
        pair.server.call("POST", INFER, TWO)
    assert candidate.connections == 1
    monkeypatch.setattr(client, "CONNECTION_AGE", -1.0)
    pair.server.call("POST", INFER, TWO)
    assert candidate.connections == 2


def test_the_breaker_spares_stable_a_hanging_candidate(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.behave = says(answer(503))
    nets = Counter(pair.server.call("POST", INFER, TWO).headers["x-modelramp-net"] for _ in range(RUN + 3))
    assert nets == {"full": RUN, "breaker": 3}
    assert pair.server.metric("modelramp_relay_breaker_open") == 1
    assert pair.counted() == {"error": RUN, "skipped": 3}
    candidate.behave = says(answer())
    eventually(
        lambda: (
            pair.server.call("POST", INFER, TWO).body == BODY
            and pair.server.metric("modelramp_relay_breaker_open") == 0
        )
    )


def test_a_hanging_candidate_costs_its_budget_once_and_not_for_ever(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.behave = candidate_stub.hangs
    with ThreadPoolExecutor(20) as clients:
        replies = list(clients.map(lambda _: pair.server.call("POST", INFER, TWO), range(20)))
    assert all(map(from_stable, replies))
    assert {reply.headers["x-modelramp-net"] for reply in replies} <= {"slow", "breaker"}
    assert pair.server.call("POST", INFER, TWO).headers["x-modelramp-net"] == "breaker"
    assert pair.server.metric("modelramp_relay_inflight") == 0


@pytest.mark.usefixtures("patient")
def test_a_client_without_time_for_both_sides_is_served_here(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.behave = candidate_stub.hangs
    assert from_stable(pair.server.call("POST", INFER, TWO, {"x-request-timeout": "4.5"})), "a late answer is a 504"
    assert pair.counted() == {"slow": 1}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("weight", [0, 1, 10, 33, 50, 100])
def test_weights_are_exact(pair: Pair, candidate: Candidate, weight: int) -> None:
    pair.weigh(weight)
    connection = http.client.HTTPConnection("127.0.0.1", pair.server.port, timeout=10)
    shares = Counter(exchange(connection, "POST", INFER, TWO).headers["x-modelramp-revision"] for _ in range(200))
    connection.close()
    assert shares[REVISION] == 2 * weight and shares[OWN] == 200 - 2 * weight
    assert pair.counted().get("ok", 0) == 2 * weight and pair.counted("stable").get("ok", 0) == 200 - 2 * weight


def test_only_inference_is_relayed_and_nothing_twice(pair: Pair, candidate: Candidate) -> None:
    pair.weigh(100)
    assert from_stable(pair.server.call("POST", INFER, TWO, {"x-modelramp-relayed": "cccccccc"}))
    assert from_stable(pair.server.call("POST", "/v2/models/digits/versions/3/infer", TWO))
    for path in ("/v2", "/v2/models/digits", "/v2/health/ready", "/metrics"):
        assert pair.server.call("GET", path).status == 200
    assert candidate.heads == []
    assert pair.server.call("POST", "/invocations", {"instances": [1]}).body == BODY


def test_a_split_that_can_not_be_read_is_told_and_means_weight_nothing(pair: Pair) -> None:
    pair.weigh(100)
    pair._file.write_text('{"v": 1, "weight": "all of it"}')
    eventually(lambda: pair.server.metric("modelramp_traffic_unreadable_total") == 1)
    assert from_stable(pair.server.call("POST", INFER, TWO))
    assert pair.server.metric("modelramp_traffic_generation") == pair.server.metric("modelramp_traffic_weight") == 0


def test_a_split_for_the_pods_own_revision_moves_nothing(pair: Pair, candidate: Candidate) -> None:
    pair._file.write_text(split(2, 100, OWN))
    eventually(lambda: pair.server.metric("modelramp_traffic_unreadable_total") == 1)
    assert from_stable(pair.server.call("POST", INFER, TWO)) and candidate.heads == []


def test_an_expired_split_moves_nothing(pair: Pair, candidate: Candidate) -> None:
    clock = [time.monotonic()]
    pair.server.service.traffic._clock = lambda: clock[0]
    pair.weigh(100)
    assert pair.server.call("POST", INFER, TWO).body == BODY
    assert pair.server.metric("modelramp_traffic_weight") == 100
    clock[0] += 121
    assert from_stable(pair.server.call("POST", INFER, TWO))
    assert pair.server.metric("modelramp_traffic_weight") == 0
    assert pair.server.metric("modelramp_traffic_generation") == pair.generation
    assert pair.server.metric("modelramp_split_requests_total", side="stable", salt="") == 1


def test_hand_over_relays_everything_and_sends_clients_away(pair: Pair, candidate: Candidate) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", pair.server.port, timeout=10)
    idle = http.client.HTTPConnection("127.0.0.1", pair.server.port, timeout=10)
    for kept in (connection, idle):
        assert "connection" not in exchange(kept, "POST", INFER, TWO).headers
    pair.weigh(100, ttl=None)
    reply = exchange(connection, "POST", INFER, TWO)
    assert (reply.body, reply.headers["connection"]) == (BODY, "close")
    assert idle.sock is not None and idle.sock.recv(1) == b"", "an idle connection is closed too"
    idle.close()
    candidate.refuse()
    reply = pair.server.call("POST", INFER, TWO)
    assert from_stable(reply) and reply.headers["connection"] == "close"


def test_hand_over_is_obeyed_from_the_start(start, lookup_model, candidate: Candidate, tmp_path: Path) -> None:
    file = tmp_path / "split"
    file.write_text(split(7, 100, ttl=None))
    server = start(lookup_model, candidate_url=candidate.url, traffic_file=file)
    eventually(lambda: server.metric("modelramp_traffic_generation") == 7)
    assert server.call("POST", INFER, TWO).body == BODY
