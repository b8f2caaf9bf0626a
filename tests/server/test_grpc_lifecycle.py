"""The gRPC listener's life: health, connections of a limited age, and a SIGTERM under load that loses nothing."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from modelramp_server import settings
from modelramp_server.rpc import server as rpc_server
from tests.server.rpc import RpcClient, RpcReply, number, settled
from tests.server.served import Served, eventually
from tests.server.test_grpc import Gate, begin
from tests.server.test_lifecycle import Process, run

Code = grpc.StatusCode
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def health(client: RpcClient, service: str = "") -> int:
    return int(HealthStub(client.channel).Check(HealthCheckRequest(service=service), timeout=30).status)


class Clients:
    """Threads on one channel that ask without a pause until told to stop."""

    def __init__(self, *ports: int) -> None:
        self.client = RpcClient(*ports)
        self.replies: list[RpcReply] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            self.replies.append(self.client.infer(number()))

    def failures(self) -> list[RpcReply]:
        return [reply for reply in self.replies if reply.code is not Code.OK]

    def answered_by(self, revision: str) -> int:
        return sum(reply.metadata.get("x-modelramp-revision") == revision for reply in list(self.replies))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        self.client.close()


class Front:
    """A Service as kube-proxy makes it: a new connection goes to the pod chosen by then, an open one stays."""

    def __init__(self, pod: int) -> None:
        self.pod = pod
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.pod)
        await asyncio.gather(_pass_on(reader, to_writer), _pass_on(to_reader, writer))

    async def _end(self) -> None:
        self._server.close()
        async with asyncio.timeout(10):
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    def stop(self) -> None:
        """Once both sides of all connections have closed."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
def replicas(lookup_model) -> Iterator[list[Process]]:
    made = [
        Process(lookup_model, DRAIN_DELAY="2", GRPC_PORT=str(free_port()), MODEL_REVISION=revision)
        for revision in ("aaaaaaaa", "bbbbbbbb")
    ]
    for process in made:
        eventually(lambda running=process: running.ready() == 200)
    yield made
    for process in made:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait(10)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_sigterm_under_load_loses_no_call(replicas: list[Process]) -> None:
    first, second = replicas
    front = Front(first.grpc_port)
    clients = Clients(front.port)
    watcher = RpcClient(first.grpc_port)
    try:
        eventually(lambda: clients.answered_by("aaaaaaaa") > 100)
        states = HealthStub(watcher.channel).Watch(HealthCheckRequest(), timeout=30)
        assert next(states).status == health(watcher) == SERVING
        first.popen.send_signal(signal.SIGTERM)
        assert next(states).status == health(watcher) == NOT_SERVING
        front.pod = second.grpc_port
        assert watcher.infer(number()).code is Code.OK, "the lame duck still answers"
        assert first.popen.wait(20) == 0
        assert list(states) == []
        eventually(lambda: clients.answered_by("bbbbbbbb") > 100)
    finally:
        clients.stop()
        watcher.close()
        front.stop()
    assert clients.failures() == []


def test_what_is_in_flight_is_finished(start, lookup_model, monkeypatch) -> None:
    gate = Gate(monkeypatch)
    server = start(lookup_model, grpc_port=0)
    client = RpcClient(server.grpc_port)
    held = begin(client, gate)
    loop = server.service.server.servers[0].get_loop()
    loop.call_soon_threadsafe(server.service.server.handle_exit, signal.SIGTERM, None)
    eventually(lambda: server.service.server.should_exit)
    gate.go_on.set()
    assert settled(held).code is Code.OK
    client.close()


def test_health_is_told_by_name(start, lookup_model, monkeypatch) -> None:
    server = start(lookup_model, grpc_port=0)
    client = RpcClient(server.grpc_port)
    assert health(client) == health(client, "inference.GRPCInferenceService") == SERVING
    with pytest.raises(grpc.RpcError) as refused:
        health(client, "other")
    assert refused.value.code() is Code.NOT_FOUND and "'other'" in refused.value.details()
    watched = HealthStub(client.channel).Watch(HealthCheckRequest(service="other"), timeout=30)
    assert next(watched).status == HealthCheckResponse.SERVICE_UNKNOWN
    watched.cancel()
    client.close()


def test_channels_are_asked_to_connect_anew_and_lose_nothing(start, lookup_model, monkeypatch) -> None:
    monkeypatch.setattr(rpc_server, "CONNECTION_AGE", 0.2)
    server = start(lookup_model, grpc_port=0)
    clients = Clients(server.grpc_port)
    states: list[Any] = []
    channel = clients.client.channel
    channel.subscribe(states.append)
    try:
        eventually(lambda: states.count(grpc.ChannelConnectivity.CONNECTING) >= 3)
    finally:
        channel.unsubscribe(states.append)
        eventually(lambda: not channel._connectivity_state.polling)  # its thread would fail on a closed channel
        clients.stop()
    assert clients.failures() == []


def test_a_port_that_is_taken(lookup_model) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Served(lookup_model, grpc_port=taken.getsockname()[1])
        server.join()
    assert isinstance(server.error, SystemExit) and server.error.code == 1


def test_an_installation_without_grpc_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(settings.InvalidSettings, match=r"GRPC_PORT.*pip install 'modelramp\[grpc\]'"):
        settings.parse(settings.ServeSettings, settings.Namespace(model_path="m", grpc_port="8081"))
    assert settings.parse(settings.ServeSettings, settings.Namespace(model_path="m")).grpc_port is None


def test_a_port_that_is_no_number() -> None:
    done = run("serve", "--model", "m", "--grpc-port", "high")
    assert done.returncode == 2 and "GRPC_PORT (--grpc-port) is 'high'" in done.stderr
