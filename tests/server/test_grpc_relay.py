"""V2 gRPC through the split: dealt, relayed, counted and copied as REST is, and always a right answer."""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelramp_server.relay.breaker import RUN
from modelramp_server.rpc.codec import outputs_of
from tests.server import candidate_stub
from tests.server.candidate_stub import REVISION, Behaviour, Candidate, answer, says
from tests.server.rpc import RpcClient, RpcReply, number, tensor
from tests.server.served import OWN, eventually
from tests.server.test_relay import Pair

Code = grpc.StatusCode
PACKED = "content-encoding: br\r\n"
BINARY = "content-type: application/octet-stream\r\ninference-header-content-length: {}\r\n"


def found(value: float, **changes: Any) -> bytes:
    """A V2 answer with its tensor in bytes."""
    raw = struct.pack("<f", value)
    entry = {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": len(raw)}, **changes}
    header = json.dumps({"model_name": "digits", "model_version": "4", "outputs": [entry]}).encode()
    return answer(body=header + raw, extra=BINARY.format(len(header)))


def in_json(value: Any, datatype: str = "FP32") -> bytes:
    entry = {"name": "y", "datatype": datatype, "shape": [1], "data": [value]}
    return answer(body=json.dumps({"outputs": [entry]}).encode())


@pytest.fixture
def candidate() -> Iterator[Candidate]:
    stub = Candidate()
    stub.behave = says(found(90.0))
    yield stub
    stub.stop()


@pytest.fixture
def pair(start, lookup_model: Path, candidate: Candidate, tmp_path: Path) -> Pair:
    file = tmp_path / "split"
    file.write_text("")
    server = start(lookup_model, candidate_url=candidate.url, traffic_file=file, grpc_port=0)
    return Pair(server, file)


@pytest.fixture
def client(pair: Pair) -> Iterator[RpcClient]:
    made = RpcClient(pair.server.grpc_port)
    yield made
    made.close()


def value_of(reply: RpcReply) -> float:
    assert reply.code is Code.OK, reply.details
    return float(outputs_of(reply.answer.SerializeToString())["y"].item())


@pytest.mark.usefixtures("patient")
def test_the_candidate_is_asked_by_rest_in_bytes(pair: Pair, client: RpcClient, candidate: Candidate) -> None:
    pair.weigh(100)
    request = number(id="7", outputs=[{"name": "y"}])
    metadata = [("x-request-id", "r7"), ("accept-encoding", "br"), ("x-blob-bin", b"\x00\xff")]
    reply = client.infer(request, metadata=metadata, timeout=20)
    assert value_of(reply) == 90.0
    assert reply.metadata["x-modelramp-revision"] == REVISION and reply.metadata["x-modelramp-version"] == "4"
    assert reply.metadata["server-timing"] == "service;dur=7.5" and "x-modelramp-net" not in reply.metadata
    assert (reply.answer.model_version, reply.answer.outputs[0].datatype) == ("4", "FP32")
    head = candidate.heads[0].lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    assert head.startswith(f"post /{REVISION}/v2/models/digits/infer http/1.1")
    assert fields["x-modelramp-relayed"] == OWN and fields["x-request-id"] == "r7"
    assert 0 < float(fields["x-request-timeout"]) < 10, "half of the client's deadline"
    assert not {"grpc-timeout", "grpc-accept-encoding", "accept-encoding", "te", "x-blob-bin", "user-agent"} & set(
        fields
    )
    length = int(fields["inference-header-content-length"])
    sent, tail = json.loads(candidate.bodies[0][:length]), candidate.bodies[0][length:]
    assert tail == (2).to_bytes(8, "little") and sent["parameters"] == {"binary_data_output": True}
    assert sent["id"] == "7" and sent["outputs"][0]["name"] == "y"
    assert sent["inputs"] == [
        {"name": "x", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}}
    ]  # fmt: skip
    assert pair.counted() == {"ok": 1}
    assert pair.server.metric("modelramp_split_service_seconds_sum", side="candidate") == pytest.approx(0.0075)


def test_a_candidate_that_answers_in_json(pair: Pair, client: RpcClient, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.behave = says(in_json(80.5))
    assert value_of(client.infer(number())) == 80.5
    candidate.behave = says(in_json("NaN"))
    assert value_of(client.infer(number())) != value_of(client.infer(number()))
    assert pair.counted() == {"ok": 3}


CASES: list[tuple[str, Behaviour, dict[str, int], str]] = [
    ("500", says(answer(500)), {"bad": 1}, "status"),
    ("503 full", says(answer(503)), {"error": 1}, "full"),
    ("400 where stable accepts", says(answer(400)), {"bad": 1}, "disagrees"),
    ("closes", candidate_stub.closes, {"bad": 1}, "broken"),
    ("hangs", candidate_stub.hangs, {"slow": 1}, "slow"),
    ("answers no V2", says(answer(body=b"{}")), {"bad": 1}, "broken"),
    ("answers no outputs", says(answer(body=b'{"outputs": 7}')), {"bad": 1}, "broken"),
    ("answers of another size", says(found(1.0, shape=[2])), {"bad": 1}, "broken"),
    ("lies about a tensor's bytes", says(found(1.0, parameters={"binary_data_size": 2})), {"bad": 1}, "broken"),
    ("answers a datatype of its own", says(found(1.0, datatype="FP4")), {"bad": 1}, "broken"),
    ("answers text for numbers", says(in_json("ten")), {"bad": 1}, "broken"),
    ("packs what nobody asked to be packed", says(answer(body=b"\x0b", extra=PACKED)), {"bad": 1}, "broken"),
]


@pytest.mark.parametrize(("behave", "counted", "net"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_whatever_the_candidate_does_stable_answers(
    pair: Pair, client: RpcClient, candidate: Candidate, behave: Behaviour, counted: dict[str, int], net: str
) -> None:
    pair.weigh(100)
    candidate.behave = behave
    reply = client.infer(number())
    assert value_of(reply) == 20.0
    assert (reply.metadata["x-modelramp-revision"], reply.metadata["x-modelramp-net"]) == (OWN, net)
    assert pair.counted() == counted and pair.counted("stable") == {}
    assert pair.server.metric("modelramp_relay_inflight") == 0


def test_a_refusal_that_stable_shares(pair: Pair, client: RpcClient, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.behave = says(answer(422, b'{"error": "from the candidate"}'))
    reply = client.infer(number(inputs=[tensor("wrong", "INT64", [1], int64_contents=[1])]))
    assert (reply.code, reply.details) == (Code.INVALID_ARGUMENT, "from the candidate")
    assert reply.metadata["x-modelramp-revision"] == REVISION and pair.counted() == {"neutral": 1}


def cancelled(client: RpcClient, candidate: Candidate, calls: int) -> None:
    """So many calls, which the candidate has when they are cancelled."""
    begun = [client.start(number().SerializeToString()) for _ in range(calls)]
    eventually(lambda: len(candidate.heads) == calls)
    for call in begun:
        call.cancel()


def test_calls_that_are_cancelled_hide_no_slow_candidate(pair: Pair, client: RpcClient, candidate: Candidate) -> None:
    pair.weigh(100)
    candidate.behave = candidate_stub.hangs
    cancelled(client, candidate, RUN)
    eventually(lambda: pair.counted() == {"slow": RUN})
    assert pair.server.metric("modelramp_relay_breaker_open") == 1
    assert pair.server.metric("modelramp_relay_inflight") == 0
    assert pair.server.metric("modelramp_requests_total", route="grpc", code="499") == RUN
    assert pair.server.metric("modelramp_requests_total", route="grpc") == RUN
    eventually(lambda: pair.server.service.rpc.underway == 0)


def test_a_server_that_stops_waits_for_what_a_cancelled_call_began(
    pair: Pair, client: RpcClient, candidate: Candidate
) -> None:
    pair.weigh(100)
    candidate.behave = candidate_stub.hangs
    cancelled(client, candidate, 1)
    pair.server.stop()
    assert b'outcome="slow"' in pair.server.service.metrics.render()


@pytest.mark.usefixtures("patient")
def test_a_canary_between_two_real_servers(start, lookup_model, sklearn_model, tmp_path: Path) -> None:
    other = start(lookup_model, model_revision=REVISION, model_version="4")
    file = tmp_path / "split"
    file.write_text("")
    url = f"http://127.0.0.1:{other.port}"
    pair = Pair(start(lookup_model, candidate_url=url, traffic_file=file, grpc_port=0), file)
    client = RpcClient(pair.server.grpc_port)
    try:
        pair.weigh(30)
        replies = [client.infer(number(at % 10)) for at in range(100)]
        assert [value_of(reply) for reply in replies] == [at % 10 * 10.0 for at in range(100)]
        assert Counter(reply.metadata["x-modelramp-revision"] for reply in replies) == {REVISION: 30, OWN: 70}
        assert {reply.answer.model_version for reply in replies} == {"3", "4"}
        assert not any("x-modelramp-prediction" in reply.metadata for reply in replies)
        assert (pair.counted(), pair.counted("stable")) == ({"ok": 30}, {"ok": 70})
        assert pair.server.metric("modelramp_requests_total", route="grpc", code="200") == 100
        assert other.metric("modelramp_requests_total") == 0, "the sender counts"
        bad = [client.infer(number(99)) for _ in range(10)]
        assert {reply.code for reply in bad} == {Code.INTERNAL}
    finally:
        client.close()


def test_only_what_names_no_version_is_relayed_and_nothing_twice(
    pair: Pair, client: RpcClient, candidate: Candidate
) -> None:
    pair.weigh(100)
    assert value_of(client.infer(number(model_version="3"))) == 20.0
    assert value_of(client.infer(number(), metadata=[("x-modelramp-relayed", "cccccccc")])) == 20.0
    assert client.send(b"", "ServerReady").code is Code.OK
    assert candidate.heads == []


def test_metadata_is_the_key_of_stickiness(pair: Pair, client: RpcClient) -> None:
    pair.weigh(50, header="x-user")
    users = [f"user-{at}" for at in range(40)]

    def sides() -> list[float]:
        return [value_of(client.infer(number(), metadata=[("x-user", user)])) for user in users]

    first = sides()
    assert set(first) == {20.0, 90.0} and sides() == first


def test_copies_are_compared(pair: Pair, client: RpcClient, candidate: Candidate) -> None:
    pair.weigh(0, shadow={"share": 100, "tolerance": 0.01, "iou": 0.9})
    for behave in (says(found(20.0)), says(found(90.0)), says(in_json(20.0)), says(answer(extra=PACKED))):
        candidate.behave = behave
        assert value_of(client.infer(number())) == 20.0
        eventually(lambda: pair.server.metric("modelramp_shadow_inflight") == 0)
    counts = {
        result: pair.server.metric("modelramp_shadow_answers_total", salt="s1", result=result)
        for result in ("agree", "disagree", "incomparable")
    }
    assert counts == {"agree": 2, "disagree": 1, "incomparable": 1}


def test_at_hand_over_a_kept_channel_gets_the_others_answers(
    pair: Pair, client: RpcClient, candidate: Candidate
) -> None:
    assert value_of(client.infer(number())) == 20.0
    pair.weigh(100, ttl=None)
    assert {value_of(client.infer(number())) for _ in range(20)} == {90.0}
    candidate.refuse()
    assert value_of(client.infer(number())) == 20.0
