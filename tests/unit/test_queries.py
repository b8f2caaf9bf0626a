"""Queries through the whole engine: what a rollout makes of a value that Prometheus has of it."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from modelramp.api.queries import Query
from modelramp.domain.changes import looks
from modelramp.domain.findings import Question
from modelramp.domain.queries import Memory, beyond, filled, told, unfit
from modelramp.domain.world import Unreachable
from modelramp.engine import sources
from modelramp.engine.reconcile import read_status
from modelramp.engine.sources import AT_ONCE, SourceConfig, Sources
from modelramp.ports import Key, QueryError
from tests.unit.gateway_world import GatewayWorld
from tests.unit.simulation import KEY, Behaviour, Operator, SimulatedWorld, run, until
from tests.unit.simulation import spec as rollout_spec

ASKED = {"source": "main", "query": "p99-latency", "max": 0.5, "failures": 3, "interval": "10s"}
TEMPLATE = 'p99{namespace="{{namespace}}",pod=~"{{name}}-{{revision}}-.*",stable="{{stable}}"}'
STEPS = [{"weight": 10, "hold": "40s"}, {"weight": 50, "hold": "40s"}]


class Server:
    """A Prometheus whose answer is always `answer`; a string is why there is none."""

    def __init__(self, answer: float | str = 0.2) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def value(self, query: str) -> float:
        self.asked.append(query)
        if isinstance(self.answer, str):
            raise QueryError(self.answer)
        return self.answer


class Scene:
    """Version 1 serves; version 2, which fails no request, is asked for."""

    def __init__(self, server: Server, world: SimulatedWorld, namespaces: tuple[str, ...] = ("*",)) -> None:
        self.server, self.world = server, world
        self.configs = {"main": SourceConfig({"p99-latency": TEMPLATE}, namespaces)}
        self.operator = self.started()

    def started(self) -> Operator:
        return Operator(self.world, sources=Sources(self.configs, {"main": self.server}))

    async def run(self, seconds: float) -> None:
        await run(self.world, self.operator, seconds)

    async def until(self, reason: str) -> dict[str, Any]:
        await until(self.world, self.operator, lambda status: status["reason"] == reason)
        return self.world.status

    async def promoted(self) -> bool:
        await until(self.world, self.operator, lambda status: status["stable"]["version"] == 2)
        return True

    @property
    def evidence(self) -> dict[str, Any]:
        found = self.world.status.get("evidence", [])
        return next((e for e in found if e["metric"] == "query/p99-latency"), {})


def spec(*asked: dict[str, Any], **rollout: Any) -> dict[str, Any]:
    rollout.setdefault("steps", STEPS)
    return rollout_spec(analysis={"queries": list(asked) or [ASKED], **rollout.pop("analysis", {})}, **rollout)


async def scene(
    answer: float | str = 0.2, wanted: dict[str, Any] | None = None, namespaces: tuple[str, ...] = ("*",)
) -> Scene:
    it = Scene(Server(answer), SimulatedWorld(wanted or spec()), namespaces)
    await it.run(10)
    it.world.aliases["prod"] = 2
    return it


# What a rollout makes of it


async def test_a_value_within_its_bound_is_part_of_a_pass() -> None:
    it = await scene(0.2)
    await it.until("Holding")
    await it.run(35)
    assert it.evidence["verdict"] == "Pass"
    assert it.evidence["message"] == "0.2 is within bounds (0.5 at most), 3 of 3 times in a row"
    assert await it.promoted()
    why = next(event.message for event in it.world.events if event.reason == "Promoting")
    assert "errors: candidate failed 0 of" in why and "query/p99-latency: 0.2 is within bounds" in why


async def test_it_is_asked_about_this_candidate_once_per_interval_and_only_while_it_gets_requests() -> None:
    it = await scene(0.2)
    await it.until("Starting")
    assert not it.server.asked
    status = await it.until("Holding")
    candidate, stable = status["candidate"]["revision"], status["stable"]["revision"]
    await it.run(29)
    assert it.server.asked == [f'p99{{namespace="shop",pod=~"digits-{candidate}-.*",stable="{stable}"}}'] * 3
    await it.promoted()
    asked = len(it.server.asked)
    await it.run(60)
    assert len(it.server.asked) == asked, "nothing is judged any more"


async def test_so_many_values_in_a_row_beyond_the_bound_reject_the_candidate() -> None:
    it = await scene(0.83)
    await it.until("Holding")
    assert it.evidence["verdict"] == "Inconclusive"
    assert it.evidence["message"] == "0.83 is above 0.5, 1 of 3 times in a row"
    status = await it.until("Rejected")
    assert [(r["version"], r["reason"]) for r in status["rejected"]] == [(2, "AnalysisFailed")]
    assert status["rejected"][0]["message"] == "query/p99-latency: 0.83 is above 0.5, 3 of 3 times in a row"
    assert len(it.server.asked) == 3


async def test_a_single_bad_value_is_forgiven_but_passes_only_when_it_is_out_of_sight() -> None:
    it = await scene(0.2, spec(steps=[{"weight": 10, "hold": "25s"}], bake="0s"))
    await it.until("Holding")
    await it.run(14)
    it.server.answer = 0.83
    await it.run(8)
    assert it.evidence["message"] == "0.83 is above 0.5, 1 of 3 times in a row"
    it.server.answer = 0.1
    status = await it.until("AwaitingVerdict")
    await it.run(5)
    assert it.evidence["message"] == "0.1 is within bounds (0.5 at most), 1 of 3 times in a row"
    assert it.evidence["verdict"] == "Inconclusive" and status["phase"] == "Ramping"
    assert await it.promoted()
    assert len(it.server.asked) == 6, "two good, one bad, three good"


async def test_a_server_that_does_not_answer_holds_and_fails_nobody() -> None:
    it = await scene("connection refused")
    status = await it.until("NoEvidence")
    assert status["message"] == "query/p99-latency: main: connection refused"
    assert it.evidence["verdict"] == "Error"
    await it.run(300)
    assert it.world.status["reason"] == "NoEvidence"
    assert it.world.status["traffic"]["weight"] == 10 and not it.world.status["rejected"]
    it.server.answer = 0.2
    assert await it.promoted()


async def test_without_an_answer_in_time_a_person_is_asked() -> None:
    it = await scene("no data", spec(analysis={"maxDuration": "2m"}))
    status = await it.until("Inconclusive")
    assert status["phase"] == "Paused" and "query/p99-latency: main: no data" in status["message"]


async def test_a_gap_neither_counts_nor_forgives() -> None:
    it = await scene(0.83)
    await it.until("Holding")
    await it.run(11)
    it.server.answer = "no data"
    await it.run(10)
    assert it.evidence["verdict"] == "Error"
    it.server.answer = 0.83
    status = await it.until("Rejected")
    assert "3 of 3 times in a row" in status["rejected"][0]["message"]
    assert len(it.server.asked) == 4


async def test_the_count_survives_the_operator() -> None:
    it = await scene(0.83)
    await it.until("Holding")
    await it.run(11)
    it.operator = it.started()
    await it.until("Rejected")
    assert len(it.server.asked) == 3


async def test_a_fail_ends_a_pause_too() -> None:
    it = await scene(0.2, spec(steps=[{"weight": 10, "hold": "5s"}, {"pause": {}}]))
    await it.until("PauseStep")
    it.server.answer = 0.83
    status = await it.until("Rejected")
    assert status["rejected"][0]["reason"] == "AnalysisFailed"


async def test_it_is_judged_while_it_bakes() -> None:
    it = await scene(0.2, spec(bake="10m"))
    await it.until("Baking")
    it.server.answer = 0.83
    status = await it.until("Rejected")
    assert status["stable"]["version"] == 1


async def test_another_bound_begins_afresh() -> None:
    it = await scene(0.83)
    await it.until("Holding")
    await it.run(11)
    it.world.edit(rollout=spec({**ASKED, "max": 0.9})["rollout"])
    await it.run(6)
    assert "0.83 is within bounds (0.9 at most), 1 of 3 times" in it.evidence["message"]
    assert await it.promoted()


async def test_no_longer_asked_it_is_gone() -> None:
    it = await scene("no data")
    await it.until("NoEvidence")
    it.world.edit(rollout=rollout_spec(steps=STEPS)["rollout"])
    await it.run(6)
    assert it.evidence == {}
    assert await it.promoted()


async def test_a_query_takes_no_part_of_alpha() -> None:
    it = await scene(0.2)
    status = await it.until("Holding")
    assert "353 more good ones would pass" in next(e["message"] for e in status["evidence"] if e["metric"] == "errors")


async def test_suspended_nothing_is_asked() -> None:
    it = await scene(0.83)
    await it.until("Holding")
    it.world.edit(suspend=True)
    await it.run(1)
    asked = len(it.server.asked)
    await it.run(60)
    assert len(it.server.asked) == asked


async def test_what_served_before_comes_back_unasked() -> None:
    it = await scene(0.2)
    await it.promoted()
    await it.run(60)
    asked = len(it.server.asked)
    it.world.aliases["prod"] = 1
    it.server.answer = 0.83
    await until(it.world, it.operator, lambda status: status["stable"]["version"] == 1)
    assert len(it.server.asked) == asked


async def test_copied_requests_are_judged_too() -> None:
    it = await scene(0.83, spec(steps=[{"shadow": 20, "hold": "1m"}, {"weight": 10, "hold": "1m"}]))
    await it.until("Shadowing")
    status = await it.until("Rejected")
    assert all(e.reason != "WeightSet" for e in it.world.events), "no user met it"
    assert status["rejected"][0]["reason"] == "AnalysisFailed"


async def test_with_a_gateway_it_is_the_same() -> None:
    world = GatewayWorld({**spec(), "traffic": {"gateway": {"parentRefs": [{"name": "public"}]}}})
    it = Scene(Server(0.83), world)
    await it.run(10)
    world.aliases["prod"] = 2
    status = await it.until("Rejected")
    assert "0.83 is above 0.5" in status["rejected"][0]["message"]


async def test_what_fails_by_the_counters_fails_whatever_prometheus_says() -> None:
    it = await scene("connection refused")
    it.world.behaviours[2] = Behaviour(bad_rate=0.5)
    status = await it.until("Rejected")
    assert "connection refused" not in status["rejected"][0]["message"]


# What the operator will not ask

MEND = "mend analysis.queries, or ask the operator's administrator"


def refusals(status: dict[str, Any]) -> list[tuple[str, str]]:
    return [(c["reason"], c["message"]) for c in status["conditions"] if c["type"] == "QueryRefused"]


@pytest.mark.parametrize(
    ("asked", "namespaces", "reason", "message"),
    [
        (
            {**ASKED, "query": "p98"},
            ("*",),
            "QueryNotConfigured",
            f"source 'main' has no query 'p98', only p99-latency; {MEND}",
        ),
        (
            {"query": "p98", "max": 1},
            ("*",),
            "QueryNotConfigured",
            f"the operator has no source 'default', only main; {MEND}",
        ),
        (
            ASKED,
            ("team-*",),
            "QueryNotAllowed",
            "namespace shop may not ask the source 'main'; ask the operator's administrator",
        ),
    ],
)
async def test_a_candidate_gets_no_request_while_a_query_is_refused(
    asked: dict[str, Any], namespaces: tuple[str, ...], reason: str, message: str
) -> None:
    it = await scene(0.2, spec(asked), namespaces)
    status = await it.until(reason)
    assert (status["phase"], status["message"]) == ("Gating", message)
    assert refusals(status) == [(reason, message)]
    await it.run(300)
    assert it.world.status["phase"] == "Gating" and not it.server.asked
    told_of = [e for e in it.world.events if e.reason == reason]
    assert [(e.type, e.message) for e in told_of] == [("Warning", message)]
    it.world.edit(rollout=rollout_spec(steps=STEPS)["rollout"])
    assert await it.promoted()
    assert refusals(it.world.status) == []


async def test_the_time_behind_a_refusal_is_not_counted() -> None:
    it = await scene("no data", spec(analysis={"maxDuration": "2m"}), ("team-*",))
    await it.until("QueryNotAllowed")
    await it.run(120)
    it.configs = {"main": SourceConfig({"p99-latency": TEMPLATE})}
    it.operator = it.started()
    status = await it.until("NoEvidence")
    assert status["phase"] == "Ramping"


async def test_pods_lost_behind_a_refusal_have_their_time_to_come_back() -> None:
    it = await scene(0.2, spec(), ("team-*",))
    await it.until("QueryNotAllowed")
    await it.run(120)
    it.world.behaviours[2] = Behaviour(ready_after=200.0)
    await it.until("Starting")
    it.world.behaviours[2] = Behaviour()
    await it.until("QueryNotAllowed")
    assert not it.world.status["rejected"]


async def test_a_refusal_is_told_before_there_is_a_rollout() -> None:
    it = Scene(Server(), SimulatedWorld(spec()), ("team-*",))
    await it.run(10)
    assert it.world.status["phase"] == "Stable"
    assert [reason for reason, _ in refusals(it.world.status)] == ["QueryNotAllowed"]


async def test_a_query_that_is_refused_in_mid_rollout_holds_the_step() -> None:
    it = await scene(0.2)
    await it.until("Holding")
    it.configs = {}
    it.operator = it.started()
    status = await it.until("NoEvidence")
    assert "the operator has no source 'main', and no other" in status["message"]
    assert status["traffic"]["weight"] == 10


async def test_a_first_revision_needs_no_query() -> None:
    world = SimulatedWorld(spec())
    await until(world, Operator(world), lambda status: status.get("stable") is not None)


async def test_stable_that_is_down_is_replaced_whatever_is_refused() -> None:
    it = await scene(0.2, spec(), ("team-*",))
    await it.until("QueryNotAllowed")
    it.world.behaviours[1] = Behaviour(ready_after=float("inf"))
    assert await it.promoted()


# One value


def test_bounds_on_both_sides() -> None:
    both = Query(query="q", min=1, max=2)
    assert [beyond(both, value) for value in (0.9, 1, 2, 2.1)] == ["below 1", "", "", "above 2"]
    assert beyond(Query(query="q", min=0), 0) == beyond(Query(query="q", max=0), 0) == ""
    memory = Memory("", (False,))
    assert told(both, 1.5, memory) == "1.5 is within bounds (1 at least, 2 at most), 1 of 3 times in a row"
    assert told(Query(query="q", min=0), -1, memory).startswith("-1 is below 0, ")


def test_what_another_release_has_remembered_is_forgotten() -> None:
    query = Query(query="q", max=1)
    kept = Memory(Memory.of(query, "").asked, (True, False))
    assert Memory.of(query, kept.dump()) == kept
    assert Memory.of(Query(query="q", max=2), kept.dump()).outside == ()
    for text in ("", "[]", "{}", '{"asked": 3}', kept.dump().replace("[true,false]", "3")):
        assert Memory.of(query, text).outside == ()


def test_as_many_in_a_row_pass_as_fail() -> None:
    verdicts = [Memory("", tuple(c == "x" for c in seen)).verdict(2).value for seen in ("x", ".", "xx", "..", "x.")]
    assert verdicts == ["Inconclusive", "Inconclusive", "Fail", "Pass", "Inconclusive"]


def test_a_query_without_bounds_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs max, min, or both"):
        Query(query="q")


# Placeholders


def test_placeholders_stand_for_names_and_for_nothing_else() -> None:
    names = {"namespace": "shop", "name": "digits", "revision": "3f2a9c01", "stable": "77b1e0d2"}
    assert filled('up{a="{{name}}-{{revision}}",b="{{stable}}{2}"} / {{namespace}}', names) == (
        'up{a="digits-3f2a9c01",b="77b1e0d2{2}"} / shop'
    )
    for name in ('x"} or vector(0) #', "x\n", "a.*", ""):
        with pytest.raises(ValueError, match="no name of Kubernetes"):
            filled("{{name}}", {"name": name})


def test_what_only_looks_like_a_placeholder_is_found() -> None:
    assert unfit("sum(up{a='{{name}}'})") == ""
    assert unfit("up{a='{{ name }}'}").startswith("{{ name }}")
    assert unfit("up{a='{{pod}}'}").startswith("{{pod}}")


# What the engine asks


async def test_a_name_that_is_none_is_not_sent() -> None:
    server = Server()
    asking = Sources({"main": SourceConfig({"q": TEMPLATE})}, {"main": server})
    about = {"revision": 'x"}', "stable": "1"}
    answers = await asking.ask(KEY, [Question("main", "q", about)])
    assert answers["q"] == Unreachable("main: revision is 'x\"}', and no name of Kubernetes")
    assert not server.asked


async def test_a_server_that_hangs_keeps_no_pass_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those who wait for their turn give up."""
    monkeypatch.setattr(sources, "SECONDS", 0.01)

    class Hanging(Server):
        busy = most = 0

        async def value(self, query: str) -> float:
            self.busy += 1
            self.most = max(self.most, self.busy)
            try:
                await asyncio.Event().wait()
            finally:
                self.busy -= 1
            raise AssertionError

    server = Hanging()
    names = [f"q{number}" for number in range(AT_ONCE + 2)]
    asking = Sources({"main": SourceConfig(dict.fromkeys(names, "up"))}, {"main": server})
    answers = await asking.ask(Key("shop", "digits"), [Question("main", name, {}) for name in names])
    assert set(answers.values()) == {Unreachable("main: no answer within 0.01 s")}
    assert server.most == AT_ONCE


async def test_all_queries_are_one_metric_of_the_operators() -> None:
    it = await scene(0.2)
    before = read_status({"status": it.world.status})
    await it.until("Holding")
    after = read_status({"status": it.world.status})
    assert ("query", after.evidence[-1].verdict) in looks(before, after)
