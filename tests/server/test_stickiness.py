"""Stickiness: one key, one side, for the whole attempt and on every replica; the key itself goes nowhere."""

import http.client
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelramp_server.relay.split import UnreadableSplit, parse
from modelramp_server.relay.stickiness import is_candidates, key_of
from tests.server.candidate_stub import REVISION, Candidate
from tests.server.served import OWN, Served, eventually, exchange, split

INFER = "/v2/models/digits/infer"
TWO = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]}
USERS = [f"user-{number}" for number in range(400)]


@given(st.text(max_size=20), st.binary(min_size=1, max_size=40))
def test_growing_weights_keep_those_who_are_on_the_candidate(salt: str, key: bytes) -> None:
    sides = [is_candidates(salt, key, weight) for weight in range(101)]
    assert sides == sorted(sides) and not sides[0] and sides[100]


@pytest.mark.parametrize("weight", [1, 10, 50, 90])
def test_about_the_weights_share_of_the_keys(weight: int) -> None:
    dealt = sum(is_candidates("attempt", f"user-{number}".encode(), weight) for number in range(20_000))
    assert dealt / 200 == pytest.approx(weight, abs=1.2)


def test_each_attempt_tries_other_keys_first() -> None:
    first, second = (
        {user for user in USERS if is_candidates(salt, user.encode(), 50)} for salt in ("one", "two")
    )  # fmt: skip
    assert 0.35 < len(first & second) / len(first) < 0.65


def test_the_first_value_of_the_header_is_the_key() -> None:
    headers = [(b"x-user-id", b"no"), (b"x-user", b" ann "), (b"x-user", b"bob")]
    assert key_of(headers, b"x-user") == b"ann"
    assert key_of(headers, b"x-other") == key_of([(b"x-user", b" ")], b"x-user") == b""


@pytest.mark.parametrize("header", ["X-User", "", "x user", "x\n", 7])
def test_a_header_that_could_not_be_found_is_told(header: object) -> None:
    with pytest.raises(UnreadableSplit):
        parse(split(2, 10, header=header))


@pytest.fixture
def candidate() -> Iterator[Candidate]:
    stub = Candidate()
    yield stub
    stub.stop()


class Replica:
    """A stable server in front of the candidate, with one client on a kept connection."""

    def __init__(self, server: Served, file: Path) -> None:
        self.server = server
        self._file, self._generation = file, 1
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def weigh(self, weight: int, **changes: object) -> None:
        self._generation += 1
        scratch = self._file.with_suffix(".new")
        scratch.write_text(split(self._generation, weight, **{"header": "x-user", **changes}))
        scratch.replace(self._file)
        eventually(lambda: self.server.metric("modelramp_traffic_generation") == self._generation)

    def side(self, user: str | None) -> str:
        headers = {} if user is None else {"X-User": user}
        return exchange(self._connection, "POST", INFER, TWO, headers).headers["x-modelramp-revision"]

    def tried(self) -> set[str]:
        """The users whom the candidate answers."""
        return {user for user in USERS if self.side(user) == REVISION}

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def replicas(start, lookup_model: Path, candidate: Candidate, tmp_path: Path, patient: None) -> Iterator[list[Replica]]:
    made = []
    for number in range(2):
        file = tmp_path / f"split-{number}"
        file.write_text("")
        made.append(Replica(start(lookup_model, candidate_url=candidate.url, traffic_file=file), file))
    yield made
    for replica in made:
        replica.close()


def test_one_user_sees_one_side_on_every_replica_while_weights_grow(replicas: list[Replica]) -> None:
    before: set[str] = set()
    for weight in (10, 50, 100):
        for replica in replicas:
            replica.weigh(weight)
        tried = replicas[0].tried()
        assert tried == replicas[1].tried() == replicas[0].tried()
        assert before < tried
        assert len(tried) == pytest.approx(len(USERS) * weight / 100, abs=30)
        before = tried


def test_requests_without_the_header_are_dealt_one_by_one(replicas: list[Replica]) -> None:
    replica = replicas[0]
    replica.weigh(30)
    answered = Counter[str]()
    for number in range(100):
        replica.side(USERS[number])
        answered[replica.side(None if number % 2 else "")] += 1
    assert answered == {REVISION: 30, OWN: 70}


def test_the_key_is_passed_on_and_told_to_nobody_else(
    replicas: list[Replica], candidate: Candidate, caplog: pytest.LogCaptureFixture
) -> None:
    replica, secret = replicas[0], "ann-4711"
    with caplog.at_level(logging.DEBUG):
        replica.weigh(100)
        assert replica.side(secret) == REVISION
        candidate.refuse()
        assert replica.side(secret) == OWN
    assert f"x-user: {secret}" in candidate.heads[-1].lower()
    told = [replica.server.call("GET", page).body.decode() for page in ("/metrics", "/v2", "/v2/models/digits")]
    assert not any(secret in text for text in [*told, caplog.text])


def test_a_server_tells_which_split_it_reads(replicas: list[Replica]) -> None:
    assert replicas[0].server.metric("modelramp_split_version") == json.loads(split(1, 10))["v"] == 1
