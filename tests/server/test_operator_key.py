"""The operator tries a model that asks for keys: it writes its key's digest on the pod, which shows it as a file."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from modelramp.adapters import keyed_fetch
from modelramp.adapters.keyed_fetch import KeyedFetch
from modelramp.adapters.pod_http import DirectFetch
from modelramp.adapters.prober import PodProber
from modelramp.adapters.scraper import Scraper
from modelramp.domain.findings import Inference
from modelramp.domain.world import Pod
from modelramp.ports import Key, ProbeError
from modelramp_server.rate_limit import RateLimit
from modelramp_server.security import api_keys
from modelramp_server.security.guard import Guard
from modelramp_server.security.operator_key import OPERATOR, OperatorKey
from modelramp_server.security.refusals import Unauthenticated
from tests.server.candidate_stub import Candidate
from tests.server.served import OWN, Served, eventually, split

POD = Pod("digits-0", OWN, ip="127.0.0.1")
BODY = {"inputs": [2]}


class Kubelet:
    """Shows an annotation as a file, at once; or not at all."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "operator-key"
        self.shows = True
        self.written: list[tuple[Key, str]] = []

    async def annotate(self, pod: Key, name: str, value: str) -> None:
        assert name == "modelramp.dev/operator-key"
        self.written.append((pod, value))
        if not self.shows:
            return
        scratch = self.file.with_suffix(".new")
        scratch.write_text(value)
        scratch.replace(self.file)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a busy machine asks for."""
    monkeypatch.setattr(keyed_fetch, "TOLD_SECONDS", 30.0)


@pytest.fixture
def kubelet(tmp_path: Path) -> Kubelet:
    return Kubelet(tmp_path)


@pytest.fixture
def guarded(start: Any, lookup_model: Path, tmp_path: Path, kubelet: Kubelet) -> Served:
    """Not even its metadata is open, and a caller may ask once."""
    keys = tmp_path / "keys"
    keys.write_text(api_keys.entry("alice", api_keys.new_key()))
    audit = str(tmp_path / "audit")
    server: Served = start(
        lookup_model, api_keys_file=keys, operator_key_file=kubelet.file, auth_open="", rate_limit=0.01, audit_log=audit
    )
    return server


@pytest.fixture
async def fetch(guarded: Served) -> AsyncIterator[DirectFetch]:
    async with DirectFetch(guarded.port) as fetch:
        yield fetch


async def test_a_model_that_asks_for_keys_is_tried(fetch: DirectFetch, kubelet: Kubelet, tmp_path: Path) -> None:
    keyed = KeyedFetch(fetch, kubelet.annotate)
    operator = PodProber(keyed.patient)
    [tensor] = await operator.inputs("shop", POD, "digits")
    assert (tensor.name, tensor.datatype) == ("x", "INT64")
    [(pod, digest)] = kubelet.written
    assert pod == Key("shop", "digits-0")
    told = replace(POD, operator_key=digest)
    assert await operator.example("shop", told, "digits") is None
    for _ in range(3):
        assert (await operator.infer("shop", told, BODY, 5.0)).status == 200, "no rate holds it up"
    assert (await Scraper(keyed).read("shop", [told])).keys() == {"digits-0"}
    assert len(kubelet.written) == 1, "told once"
    eventually(lambda: (tmp_path / "audit").read_text().count(f'"caller":"{OPERATOR}"') == 3)


async def test_a_key_opens_one_pod_to_one_operator(
    fetch: DirectFetch, kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, present = (PodProber(KeyedFetch(fetch, kubelet.annotate).patient) for _ in range(2))
    await former.inputs("shop", POD, "digits")
    old = replace(POD, operator_key=kubelet.written[-1][1])
    await present.inputs("shop", old, "digits")
    with pytest.raises(ProbeError, match="asks for a key, and does not know the operator's yet"):
        await former.inputs("shop", old, "digits")
    kubelet.shows = False
    monkeypatch.setattr(keyed_fetch, "TOLD_SECONDS", 1.0)
    with pytest.raises(ProbeError):
        await present.inputs("shop", replace(POD, name="digits-1"), "digits")
    known = replace(POD, operator_key=kubelet.written[1][1])
    assert await present.inputs("shop", known, "digits")


def test_the_key_goes_no_further(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    candidate = Candidate()
    try:
        file, kubelet = tmp_path / "split", Kubelet(tmp_path)
        keys = tmp_path / "keys"
        keys.write_text(api_keys.entry("alice", api_keys.new_key()))
        settings = {"api_keys_file": keys, "operator_key_file": kubelet.file, "traffic_file": file}
        server = start(lookup_model, candidate_url=candidate.url, **settings)
        file.write_text(split(2, 100))
        eventually(lambda: server.metric("modelramp_traffic_generation") == 2)

        async def tried() -> Inference:
            async with DirectFetch(server.port) as fetch:
                return await PodProber(KeyedFetch(fetch, kubelet.annotate).patient).infer("shop", POD, BODY, 5.0)

        assert asyncio.run(tried()).status == 200 and not candidate.heads
    finally:
        candidate.stop()


async def test_where_only_tokens_are_taken_the_operator_is_let_in_at_any_rate(tmp_path: Path) -> None:
    key = b"k" * 64
    operator = OperatorKey(tmp_path / "operator-key")
    operator.path.write_text(f"sha256:{sha256(key).hexdigest()}")
    operator.reload()
    guard = Guard(api_keys.ApiKeys, operator, Nobody(), RateLimit(0.01, 1), frozenset(), lambda reason: None)
    for _ in range(3):
        await guard.admit_to("/v2/models/digits/infer", [(b"x-api-key", key)])
    with pytest.raises(Unauthenticated):
        await guard.admit_to("/v2/models/digits/infer", [(b"x-api-key", key[:-1])])


class Nobody:
    """Takes no token."""

    async def owner(self, token: str) -> str:
        raise Unauthenticated(token)


def test_a_file_that_says_no_digest_admits_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "operator-key"
    key = b"k" * 64
    operator = OperatorKey(file)
    operator.reload()
    assert not operator.admits(b"") and not operator.admits(key)
    for text in ("", "\n", key.decode(), sha256(key).hexdigest(), "sha256:", f"md5:{'0' * 64}", "sha256:" + "0" * 63):
        caplog.clear()
        file.write_text(text)
        with caplog.at_level(logging.ERROR):
            operator.reload()
        assert not operator.admits(key) and not operator.admits(b"")
        assert bool(caplog.records) == bool(text.strip())
        assert key.decode() not in caplog.text
    file.write_text(f"sha256:{sha256(key).hexdigest()}\n")
    operator.reload()
    assert operator.admits(key) and not operator.admits(key[:-1])
