"""Pods that ask for a key are told the operator's, one for each pod, and shown it only then."""

import asyncio
from dataclasses import replace
from hashlib import sha256

import pytest

from modelramp.adapters import keyed_fetch
from modelramp.adapters.keyed_fetch import KeyedFetch, NotLetIn
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
        if known and self.slowness < 0:
            return PodAnswer(200, {}, b"")
        return PodAnswer(401, {"www-authenticate": 'Bearer realm="modelramp"'}, b"")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """And yet as patient as a busy machine asks for."""
    monkeypatch.setattr(keyed_fetch, "PAUSE", 0.001)
    monkeypatch.setattr(keyed_fetch, "TOLD_SECONDS", 30.0)


async def test_a_pod_that_asks_for_a_key_is_told_the_operators() -> None:
    pods = Guarded(slowness=3)
    fetch = KeyedFetch(pods.fetch, pods.annotate)
    assert (await fetch.patient("shop", POD, REQUEST)).status == 200
    [(pod, name, digest)] = pods.told
    assert (pod, name) == (Key("shop", "p"), "modelramp.dev/operator-key")
    assert pods.shown[0] is None and len(pods.shown) == 5 and len(set(pods.shown[1:])) == 1
    for seen in (POD, replace(POD, operator_key=digest), replace(POD, operator_key=digest)):
        assert (await fetch("shop", seen, REQUEST)).status == 200
    assert len(pods.told) == 1 and len(pods.shown) == 8, "told once, and shown from then on"


async def test_a_look_at_metrics_does_not_wait() -> None:
    pods = Guarded()
    fetch = KeyedFetch(pods.fetch, pods.annotate)
    with pytest.raises(NotLetIn, match="asks for a key, and does not know the operator's yet"):
        await fetch("shop", POD, REQUEST)
    assert len(pods.told) == len(pods.shown) == 1
    assert (await fetch("shop", POD, REQUEST)).status == 200


async def test_a_pod_that_lost_the_annotation_is_told_again() -> None:
    pods = Guarded()
    fetch = KeyedFetch(pods.fetch, pods.annotate)
    assert (await fetch.patient("shop", POD, REQUEST)).status == 200
    assert (await fetch("shop", replace(POD, operator_key=pods.told[0][2]), REQUEST)).status == 200
    pods.slowness = 1
    assert (await fetch.patient("shop", replace(POD, operator_key="sha256:another"), REQUEST)).status == 200
    assert len(pods.told) == 2


@pytest.mark.parametrize("challenge", [None, 'Bearer realm="of-a-mesh"'])
async def test_who_else_answers_401_is_told_nothing(challenge: str | None) -> None:
    async def answer(namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        assert "x-api-key" not in request.headers
        return PodAnswer(401, {"www-authenticate": challenge} if challenge else {}, b"")

    pods = Guarded()
    assert (await KeyedFetch(answer, pods.annotate).patient("shop", POD, REQUEST)).status == 401
    assert not pods.told


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
            assert (await fetch.patient(namespace, replace(POD, name=name), REQUEST)).status == 200
    digests = [value for _, _, value in pods.told]
    assert len(digests) == len(set(digests)) == 6


async def test_a_pod_that_does_not_take_the_key_is_given_up_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_fetch, "TOLD_SECONDS", 0.005)
    pods = Guarded(slowness=1 << 30)
    fetch = KeyedFetch(pods.fetch, pods.annotate)
    for seen in (POD, replace(POD, operator_key=(await told(pods, fetch)))):
        with pytest.raises(NotLetIn):
            await fetch.patient("shop", seen, REQUEST)
    assert len(pods.told) == 1


async def test_a_pod_that_is_slow_to_say_no_takes_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Guarded(slowness=1 << 30)
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

    async def slow(namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        nonlocal now
        now += keyed_fetch.TOLD_SECONDS
        return await pods.fetch(namespace, pod, request)

    with pytest.raises(NotLetIn):
        await KeyedFetch(slow, pods.annotate).patient("shop", POD, REQUEST)
    assert len(pods.shown) == 1


async def told(pods: Guarded, fetch: KeyedFetch) -> str:
    """The digest that a pod has been told."""
    with pytest.raises(NotLetIn):
        await fetch("shop", POD, REQUEST)
    return pods.told[0][2]


@pytest.mark.parametrize("error", [ClusterError("PATCH: forbidden", status=403), Conflict("changed")])
async def test_a_pod_that_cannot_be_told_is_named_with_the_reason(error: Exception) -> None:
    async def refuse(pod: Key, name: str, value: str) -> None:
        raise error

    with pytest.raises(Unreadable, match=f"can't be told the operator's: {error}"):
        await KeyedFetch(Guarded().fetch, refuse).patient("shop", POD, REQUEST)
