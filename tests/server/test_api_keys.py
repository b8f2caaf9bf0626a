"""API keys over real sockets: who is let in, where, how often; and that a relay changes none of it."""

import http.client
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelramp_server import cli
from modelramp_server.rate_limit import MOST_CALLERS, RateLimit
from modelramp_server.security import api_keys
from modelramp_server.security.guard import Guard
from modelramp_server.security.operator_key import OperatorKey
from modelramp_server.security.refusals import RateLimited
from tests.server import candidate_stub
from tests.server.candidate_stub import Candidate
from tests.server.pair import CANDIDATE, real_pair
from tests.server.served import OWN, Reply, Served, eventually, exchange, split

INFER = "/v2/models/digits/infer"
TWO = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]}
ALICE, BOB = api_keys.new_key(), api_keys.new_key()
OPEN = ["/v2/health/live", "/v2/health/ready", "/health", "/ping", "/v2/models/digits/ready"]
OPENED = ["/metrics", "/v2", "/v2/models/digits", "/v2/models/digits/versions/3"]
CLOSED = ["/version", "/v2/models/digits/example", "/v2/models/other", "/metrics/", "//metrics", "/v2/health"]


def key_file(folder: Path, *lines: str) -> Path:
    """Replaced as a kubelet does: at once."""
    path, scratch = folder / "keys", folder / "keys.new"
    scratch.write_text("# clients\n\n" + "\n".join(lines) + "\n")
    scratch.replace(path)
    return path


def both(folder: Path) -> Path:
    return key_file(folder, api_keys.entry("alice", ALICE), api_keys.entry("bob", BOB))


def infer(server: Served, key: str = ALICE, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.call("POST", INFER, TWO, {"Authorization": f"Bearer {key}", **named})


@pytest.fixture(scope="module")
def guarded(lookup_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(lookup_model, api_keys_file=both(tmp_path_factory.mktemp("keys"))).wait_ready()
    yield server
    server.stop()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ALICE}"},
        {"authorization": f"bearer  {BOB} "},
        {"X-API-Key": ALICE},
        {"X-API-Key": BOB, "Authorization": "Basic eDp5"},
    ],
)
def test_a_key_lets_in(guarded: Served, headers: dict[str, str]) -> None:
    assert guarded.call("POST", INFER, TWO, headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": ALICE},
        {"Authorization": f"Bearer {ALICE[:-1]}"},
        {"Authorization": f"Bearer {ALICE}x"},
        {"Authorization": f"Bearer {api_keys.new_key()}"},
        {"Authorization": "Bearer a.b.c"},
        {"X-API-Key": ""},
        {"X-API-Key": api_keys.new_key(), "Authorization": f"Bearer {ALICE}"},
        {"Cookie": f"key={ALICE}"},
        {"x-modelramp-relayed": OWN},
        {"x-modelramp-relayed": "smoke", "x-modelramp-peer": "0" * 64},
    ],
)
def test_nothing_else_does(guarded: Served, headers: dict[str, str]) -> None:
    before = guarded.metric("modelramp_rejects_total", reason="unauthenticated")
    reply = guarded.call("POST", INFER, TWO, {**headers, "X-Request-ID": "7"})
    assert reply.headers["x-request-id"] == "7"
    assert reply.status == 401 and reply.headers["www-authenticate"] == 'Bearer realm="modelramp"'
    assert "key" in reply.json["error"] and ALICE not in reply.json["error"]
    assert guarded.metric("modelramp_rejects_total", reason="unauthenticated") == before + 1


def test_only_what_is_listed_is_open(guarded: Served) -> None:
    for path in [*OPEN, *OPENED]:
        assert guarded.call("GET", path).status == 200, path
    for path in CLOSED:
        assert guarded.call("GET", path).status == 401, path
    for path in (INFER, "/invocations", "/v2/models/digits/versions/3/infer", "/v2/repository/index"):
        assert guarded.call("POST", path, {}).status == 401, path
    assert guarded.call("GET", "/version", None, {"X-API-Key": ALICE}).status == 200


def test_metrics_and_metadata_can_be_closed(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    server = start(lookup_model, api_keys_file=both(tmp_path), auth_open="")
    for path in OPENED:
        assert server.call("GET", path).status == 401
        assert server.call("GET", path, None, {"X-API-Key": BOB}).status == 200
    for path in OPEN:
        assert server.call("GET", path).status == 200


def test_keys_are_changed_while_it_serves(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    server = start(lookup_model, api_keys_file=key_file(tmp_path, api_keys.entry("alice", ALICE)))
    assert (infer(server, ALICE).status, infer(server, BOB).status) == (200, 401)
    key_file(tmp_path, api_keys.entry("alice", ALICE), api_keys.entry("alice", BOB))
    eventually(lambda: infer(server, BOB).status == 200)
    assert infer(server, ALICE).status == 200, "old and new at once"
    key_file(tmp_path, api_keys.entry("alice", BOB))
    eventually(lambda: infer(server, ALICE).status == 401)
    key_file(tmp_path, "alice:plain-text")
    key_file(tmp_path, "alice:plain-text", "# looked at twice by now")
    server.service._front._keys.reload()
    assert infer(server, BOB).status == 200, "a file that turned bad changes nothing"
    key_file(tmp_path)
    eventually(lambda: infer(server, BOB).status == 401)


def test_a_small_body_that_nobody_read_costs_no_connection(guarded: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=10)
    assert "connection" not in exchange(connection, "POST", INFER, TWO).headers
    assert exchange(connection, "POST", INFER, TWO, {"X-API-Key": ALICE}).status == 200
    connection.close()
    connection.connect()
    connection.putrequest("POST", INFER)
    connection.putheader("content-length", str(1 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 401 and answer.headers["connection"] == "close", "nor is a large one waited for"
    connection.close()


def test_who_sends_much_is_told_no_before_the_connection_ends(guarded: Served) -> None:
    """One that is closed upon unread bytes is reset, and the client may never see the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=10)
    assert exchange(connection, "POST", INFER, b"x" * (16 << 20)).status == 401
    connection.close()


def test_the_rate_is_each_callers_own(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    server = start(lookup_model, api_keys_file=both(tmp_path), rate_limit=0.01, rate_burst=2)
    assert [infer(server, ALICE).status for _ in range(2)] == [200, 200]
    reply = infer(server, ALICE)
    assert reply.status == 429 and 90 <= int(reply.headers["retry-after"]) <= 100
    assert "0.01 requests a second" in reply.json["error"]
    assert infer(server, BOB).status == 200
    for forged in ({"x_modelramp_relayed": OWN}, {"x_modelramp_peer": "0" * 64}, {"x_modelramp_peer": ""}):
        assert infer(server, ALICE, **forged).status == 429
    assert server.metric("modelramp_rejects_total", reason="rate_limited") == 4
    assert server.call("GET", "/v2/health/ready").status == 200


def test_a_relayed_request_counts_once(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    keyed = {"api_keys_file": both(tmp_path), "rate_limit": 0.01, "rate_burst": 3}
    stable, candidate = real_pair(start, lookup_model, tmp_path, keyed, keyed)
    replies = [infer(stable) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert {reply.headers["x-modelramp-revision"] for reply in replies[:3]} == {CANDIDATE}
    assert [infer(candidate).status for _ in range(4)] == [200, 200, 200, 429], "its own bucket was still full"


def test_a_copy_counts_once(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    keyed = {"api_keys_file": both(tmp_path), "rate_limit": 0.01, "rate_burst": 3}
    copies = {"share": 100, "tolerance": 0.01, "iou": 0.9}
    stable, candidate = real_pair(start, lookup_model, tmp_path, keyed, keyed, weight=0, shadow=copies)
    assert [infer(stable).status for _ in range(3)] == [200] * 3
    eventually(lambda: stable.metric("modelramp_shadow_answers_total", result="agree") == 3)
    assert infer(candidate).status == 200


def test_both_sides_check_and_other_keys_there_are_no_evidence(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    theirs = {"api_keys_file": key_file(others, api_keys.entry("bob", BOB))}
    stable, _ = real_pair(start, lookup_model, tmp_path, theirs, {"api_keys_file": both(tmp_path)})
    assert infer(stable, BOB).headers["x-modelramp-revision"] == CANDIDATE
    reply = infer(stable, ALICE)
    assert (reply.status, reply.headers["x-modelramp-net"]) == (200, "refused")
    assert stable.metric("modelramp_split_requests_total", side="candidate", outcome="error") == 1
    assert stable.metric("modelramp_split_requests_total", side="candidate", outcome="bad") == 0
    assert stable.metric("modelramp_net_answers_total", reason="refused") == 1


def test_the_mark_of_peers_is_stables_own(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    candidate = Candidate()
    try:
        file = tmp_path / "split"
        file.write_text("")
        keys = both(tmp_path)
        server = start(lookup_model, candidate_url=candidate.url, traffic_file=file, api_keys_file=keys)
        file.write_text(split(2, 100))
        eventually(lambda: server.metric("modelramp_traffic_generation") == 2)
        assert infer(server, ALICE, x_modelramp_peer="forged").body == candidate_stub.BODY
        head = candidate.heads[0]
        mark = api_keys.parse(keys.read_text()).peer_mark.decode()
        assert f"x-modelramp-peer: {mark}\r\n" in head.lower() and "forged" not in head
        assert f"Bearer {ALICE}" in head, "the client's own credentials go on"
    finally:
        candidate.stop()


def test_nothing_configured_stands_nowhere(lookup_server: Served) -> None:
    service = lookup_server.service
    assert service.server.config.app is service.server._app
    assert service.server._app._traffic is service.traffic
    assert service._front.marks() == {}


def test_a_bucket_fills_again_up_to_its_burst() -> None:
    now = [0.0]
    limit = RateLimit(2.0, 3, lambda: now[0])
    assert [limit.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now[0] = 0.25
    assert limit.take("a") == pytest.approx(0.25)
    now[0] = 0.5
    assert limit.take("a") == 0.0 and limit.take("a") == pytest.approx(0.5)
    now[0] = 1000.0
    assert [limit.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_buckets_are_bounded() -> None:
    limit = RateLimit(1.0, 1, lambda: 0.0)
    assert limit.take("first") == 0.0
    for number in range(MOST_CALLERS):
        limit.take(str(number))
    assert len(limit._buckets) == MOST_CALLERS
    assert limit.take("first") == 0.0, "forgotten: used longest ago"
    assert limit.take(str(MOST_CALLERS - 1)) > 0


class Anybody:
    """Takes any token."""

    async def owner(self, token: str) -> str:
        return "jwt:somebody"


async def test_where_there_are_no_keys_no_mark_spares_the_rate(tmp_path: Path) -> None:
    none = OperatorKey(tmp_path / "none")
    guard = Guard(api_keys.ApiKeys, none, Anybody(), RateLimit(0.01, 1), frozenset(), lambda reason: None)
    headers = [(b"authorization", b"Bearer a.b.c"), (b"x-modelramp-peer", b"")]
    await guard.admit(headers)
    with pytest.raises(RateLimited):
        await guard.admit(headers)


def test_a_file_is_refused_by_line_and_tells_no_secret() -> None:
    good = api_keys.entry("alice", ALICE)
    for bad in (
        f"alice:{ALICE}",
        f"alice:sha256:{'0' * 63}",
        f"a b:sha256:{'0' * 64}",
        f":{good}",
        f"alice:md5:{'0' * 64}",
    ):
        with pytest.raises(api_keys.BadKeys, match="line 2") as caught:
            api_keys.parse(f"{good}\n{bad}\n")
        assert ALICE not in str(caught.value)
    assert api_keys.parse("# none\n\n") == api_keys.ApiKeys()
    assert api_keys.parse("").owner(b"") is None


def test_the_same_keys_make_the_same_mark_in_any_order() -> None:
    one, two = api_keys.entry("alice", ALICE), api_keys.entry("bob", BOB)
    assert api_keys.parse(f"{one}\n{two}").peer_mark == api_keys.parse(f"{two}\n{one}").peer_mark
    assert api_keys.parse(one).peer_mark != api_keys.parse(two).peer_mark


def test_hash_key_makes_a_key_and_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["hash-key", "alice"])
    told = capsys.readouterr()
    key = told.err.strip().rsplit(" ", 1)[1]
    assert key not in told.out and len(key) >= api_keys.SHORTEST
    assert api_keys.parse(told.out).owner(key.encode()) == "alice"


@pytest.mark.parametrize(
    ("name", "given", "status"),
    [
        ("alice", ALICE, 0),
        ("alice", "password", 2),
        ("alice", "a b" * 20, 2),
        ("al ice", ALICE, 2),
        ("a" * 65, ALICE, 2),
    ],
    ids=["taken", "short", "repeats", "name with a space", "long name"],
)
def test_hash_key_takes_a_key_that_is_strong(
    name: str, given: str, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{given}\n"))
    if status:
        with pytest.raises(SystemExit) as ended:
            cli.main(["hash-key", name, "--stdin"])
        assert ended.value.code == status and given not in capsys.readouterr().err
        return
    cli.main(["hash-key", name, "--stdin"])
    assert api_keys.parse(capsys.readouterr().out).owner(given.encode()) == name


def test_callers_of_one_moment_are_told_apart(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    server = start(lookup_model, api_keys_file=both(tmp_path), audit_log=str(audit))
    keys = {"alice": ALICE, "bob": BOB}

    def client(name: str) -> None:
        for _ in range(20):
            assert infer(server, keys[name], x_request_id=name).status == 200

    threads = [threading.Thread(target=client, args=(name,)) for name in keys for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    eventually(lambda: audit.read_text().count("\n") == 80)
    lines = audit.read_text().splitlines()
    assert all(f'"request_id":"{n}","caller":"{n}"' in line for n in keys for line in lines if f'"{n}"' in line)
    assert sum('"caller":"alice"' in line for line in lines) == 40
