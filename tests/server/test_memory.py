"""MEMORY_LIMIT: where it comes from, and when requests are refused for it."""

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelramp_server.memory import MemoryWatch, container_limit, own_bytes
from modelramp_server.protocol.errors import ShortOfMemory
from tests.server.rpc import RpcClient, number, settled
from tests.server.served import eventually
from tests.server.test_grpc import Gate, begin


def test_refusing_ends_well_below_where_it_begins() -> None:
    used = iter([60, 74, 75, 75, 70, 61, 59, 74])
    watch = MemoryWatch(100, lambda: 2, lambda: next(used))
    watch._looks = 1  # memory has just been given back
    seen = []
    for _ in range(8):
        watch.look()
        seen.append(watch.shedding)
    assert seen == [False, False, True, True, True, True, False, False]
    watch.check()
    watch.shedding = True
    with pytest.raises(ShortOfMemory, match="MEMORY_LIMIT"):
        watch.check()


def test_a_model_that_fills_most_of_the_limit_leaves_the_rest_to_requests() -> None:
    used, requests = iter([90, 97, 98, 98]), iter([0, 2, 2])
    watch = MemoryWatch(100, lambda: next(requests), lambda: next(used))
    seen = []
    for _ in range(3):
        watch.look()
        seen.append(watch.shedding)
    assert seen == [False, False, True]


def test_memory_that_python_has_freed_goes_back_to_the_kernel() -> None:
    kept = [bytes(100_000) for _ in range(2000)]
    last = bytes(100_000)
    full = own_bytes()
    kept.clear()
    watch = MemoryWatch(1, lambda: 1)
    watch.look()
    assert full - own_bytes() > 100_000_000 and last


@pytest.mark.parametrize(("text", "limit"), [("max\n", 0), ("536870912\n", 536870912), (f"{1 << 62}\n", 0)])
def test_the_limit_is_the_containers(tmp_path: Path, text: str, limit: int) -> None:
    file = tmp_path / "memory.max"
    file.write_text(text)
    assert container_limit((tmp_path / "none", file)) == limit


def test_a_large_body_is_refused_when_its_turn_has_come_and_memory_is_short(start: Any, lookup_model: Path) -> None:
    server = start(lookup_model, memory_limit="1Gi")
    memory = server.service.local.memory
    memory._read = lambda: 1 << 30 if threading.current_thread().name.startswith("decoder") else 100
    memory._others = lambda: 2
    large = {"name": "x", "datatype": "INT64", "shape": [200_000], "data": [9] * 200_000}
    refused = server.infer(large)
    assert refused.status == 503 and "MEMORY_LIMIT" in refused.json["error"]
    memory._others = lambda: 1
    assert server.infer(large).status == 200


@pytest.mark.parametrize("recorded", [{}, {"audit_log": "stdout"}], ids=["plainly", "recorded"])
def test_what_is_refused_for_memory_is_stables_refusal(start: Any, lookup_model: Path, recorded: Any) -> None:
    server = start(lookup_model, memory_limit="1Gi", grpc_port=0, **recorded)
    memory = server.service.local.memory
    memory._read, memory._others = lambda: 1 << 30, lambda: 2
    memory.look()
    counted = {"name": "x", "datatype": "INT64", "shape": [1], "data": [0]}
    client = RpcClient(server.grpc_port)
    try:
        assert server.infer(counted).status == 503
        assert client.infer(number()).code is grpc.StatusCode.UNAVAILABLE
        assert server.metric("modelramp_split_requests_total", side="stable", outcome="refused") == 2
        assert server.infer(counted, x_modelramp_relayed="smoke").status == 503
        relayed = client.infer(number(), metadata=[("x-modelramp-relayed", "smoke")])
        assert relayed.code is grpc.StatusCode.UNAVAILABLE
    finally:
        client.close()
    assert server.metric("modelramp_split_requests_total", side="stable") == 2, "the sender counts those"
    assert server.metric("modelramp_failed_window_sum") == 4
    assert server.metric("modelramp_bad_window_sum") == 0


def test_calls_of_grpc_are_requests_too(start: Any, lookup_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    server = start(lookup_model, memory_limit="1Gi", grpc_port=0)
    memory = server.service.local.memory
    client = RpcClient(server.grpc_port)
    try:
        held = begin(client, gate)
        memory._read = lambda: 1 << 30
        eventually(lambda: memory.shedding)
        refused = client.infer(number())
        assert refused.code is grpc.StatusCode.UNAVAILABLE and "MEMORY_LIMIT" in refused.details
        assert server.metric("modelramp_rejects_total", reason="memory") == 1
        gate.go_on.set()
        assert settled(held).code is grpc.StatusCode.OK
        assert client.infer(number()).code is grpc.StatusCode.OK, "the only one is always taken"
    finally:
        gate.go_on.set()
        client.close()
