"""Pods that ask for a key are told the operator's, one for each pod, and shown it only then."""

from dataclasses import replace
from hashlib import sha256

import pytest

from modelramp.adapters import keyed_fetch
from modelramp.adapters.keyed_fetch import KeyedFetch
from modelramp.adapters.pod_http import PodAnswer, PodRequest, Unreadable
from modelramp.domain.world import Pod
from modelramp.ports import ClusterError, Conflict, Key

POD = Pod("p", "3f2a9c01", ip="192.0.2.1")
REQUEST = PodRequest("/invocations", 1.0, b"{}", {"x-modelramp-relayed": "smoke"})


class Guarded:
    """Pods that answer whoever shows a key of the digest that was told last, `slowness` requests after that."""

    def __init__(self, slowness: int = 0) -> None:
        self.slowness = slowness
        self.told: list[tuple[Key, str, str]] = []
        self.shown: list[str | None] = []

    async def annotate(self, pod: Key, name: str, value: str) -> None:
        self.told.append((pod, name, value))

    async def fetch(self, namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        assert request.headers["x-modelramp-relayed"] == "smoke" and request.body == b"{}"
        self.shown.append(request.headers.get("x-api-key"))
        digest = f"sha256:{sha256((self.shown[-1] or '').encode()).hexdigest()}"
        known = bool(self.told) and self.told[-1][2] == digest
        self.slowness -= known
        return PodAnswer(200 if known and self.slowness < 0 else 401, {}, b"")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_fetch, "PAUSE", 0.001)
    monkeypatch.setattr(keyed_fetch, "TOLD_SECONDS", 0.005)


async def test_a_pod_that_asks_for_a_key_is_told_the_operators() -> None:
    pods = Guarded(slowness=3)
    fetch = KeyedFetch(pods.fetch, pods.annotate)
    assert (await fetch("shop", POD, REQUEST)).status == 200
    [(pod, name, digest)] = pods.told
    assert (pod, name) == (Key("shop", "p"), "modelramp.dev/operator-key")
    assert pods.shown[0] is None and len(pods.shown) == 5 and len(set(pods.shown[1:])) == 1
    assert (await fetch("shop", replace(POD, operator_key=digest), REQUEST)).status == 200
    assert len(pods.told) == 1 and len(pods.shown) == 6, "told once, and shown from then on"


async def test_a_pod_that_asks_for_none_is_shown_none() -> None:
    shown: list[PodRequest] = []

    async def answer(namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        shown.append(request)
        return PodAnswer(403, {}, b"")

    fetch = KeyedFetch(answer, Guarded().annotate)
    assert (await fetch("shop", POD, REQUEST)).status == 403
    assert (await fetch("shop", replace(POD, operator_key="sha256:of-another-process"), REQUEST)).status == 403
    assert shown == [REQUEST, REQUEST]


async def test_every_pod_has_a_key_of_its_own_and_every_process_others() -> None:
    pods = Guarded()
    for _ in range(2):
        fetch = KeyedFetch(pods.fetch, pods.annotate)
        for namespace, name in (("shop", "p"), ("shop", "q"), ("other", "p")):
            assert (await fetch(namespace, replace(POD, name=name), REQUEST)).status == 200
    digests = [value for _, _, value in pods.told]
    assert len(digests) == len(set(digests)) == 6


async def test_a_pod_that_does_not_take_the_key_is_asked_again_later() -> None:
    pods = Guarded(slowness=100)
    fetch = KeyedFetch(pods.fetch, pods.annotate)
    with pytest.raises(Unreadable, match="asks for a key, and does not know the operator's yet"):
        await fetch("shop", POD, REQUEST)
    assert len(pods.shown) == 6
    with pytest.raises(Unreadable, match="does not know the operator's yet"):
        await fetch("shop", replace(POD, operator_key=pods.told[0][2]), REQUEST)
    assert len(pods.shown) == 7 and len(pods.told) == 1, "without waiting, and without a write"


@pytest.mark.parametrize("error", [ClusterError("PATCH: forbidden", status=403), Conflict("changed")])
async def test_a_pod_that_cannot_be_told_is_named_with_the_reason(error: Exception) -> None:
    async def refuse(pod: Key, name: str, value: str) -> None:
        raise error

    with pytest.raises(Unreadable, match=f"can't be told the operator's: {error}"):
        await KeyedFetch(Guarded().fetch, refuse)("shop", POD, REQUEST)
