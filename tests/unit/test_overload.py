"""Versions whose pods can't bear the load: what is accepted of the next one depends on what stable refused under it."""

from dataclasses import replace

from modelramp.desired.meta import REVISION_LABEL
from modelramp.domain.world import PodMetrics
from modelramp.ports import Kind
from tests.unit.simulation import (
    KEY,
    Behaviour,
    Operator,
    SimPod,
    SimulatedWorld,
    run,
    serves,
    serving,
    spec,
    until,
)

NEARLY_ENOUGH, RPS = 45.0, 100.0  # requests a second of each of two pods, and of all clients


class Loaded(SimulatedWorld):
    """Each pod answers so many requests a second, and refuses what is more."""

    capacity = NEARLY_ENOUGH
    window: float | None = None  # refusals in each pod's last hour; None: all that there were

    def _serve(self, seconds: float) -> None:
        service = self.children.get((Kind("v1", "Service"), KEY.name))
        selected = service["spec"]["selector"][REVISION_LABEL] if service else ""
        serving = [pod for pod in self.pods.values() if pod.revision == selected and self.ready(pod)]
        for pod in serving:
            own = self.rps / len(serving) * (1 - pod.weight / 100)
            too_many = max(0.0, own - self.capacity) / own if own else 0.0
            self.behaviours[pod.version] = Behaviour(refused_rate=too_many)
        super()._serve(seconds)

    def _metrics(self, pod: SimPod) -> PodMetrics:
        refused = float(sum(counts["refused"] for counts in pod.splits.values()))
        seconds = self.time - pod.born + 1
        told = refused if self.window is None else self.window
        return replace(
            super()._metrics(pod), bad_seconds=seconds, failed_sum=told, failed_squares=told * told / seconds
        )


async def promoted(world: Loaded) -> Operator:
    """Version 2 has just been promoted beside a version 1 that bore nine tenths of its load."""
    operator = Operator(world)
    await until(world, operator, serves(1))
    await run(world, operator, 120)
    world.aliases["prod"] = 2
    await until(world, operator, serves(2))
    return operator


def begun() -> Loaded:
    return Loaded(spec(scaleDownDelay="60s"), rps=RPS)


async def test_an_equal_successor_of_what_bore_nine_tenths_of_its_load_stays() -> None:
    """Stable refused nothing beside the candidate."""
    world = begun()
    operator = await promoted(world)
    await run(world, operator, 70)
    assert serves(2)(world.status), world.status["rejected"]


async def test_one_that_bears_half_of_that_is_taken_back() -> None:
    world = begun()
    operator = await promoted(world)
    world.capacity = NEARLY_ENOUGH / 2
    await until(world, operator, serves(1), 50)


async def test_an_overload_of_long_ago_excuses_nothing() -> None:
    world = begun()
    world.window = 0.0
    operator = await promoted(world)
    await until(world, operator, serves(1), 50)


async def test_a_candidate_that_leaves_most_to_stable_is_not_promoted() -> None:
    world, operator = await serving(spec(scaleDownDelay="60s"))
    world.behaviours[2] = Behaviour(refused_rate=0.6)
    status = await until(world, operator, lambda s: s["reason"] == "Overloaded")
    assert status["message"] == "the candidate refuses 59.5 % of all requests, with all its pods"
    status = await until(world, operator, lambda s: s["reason"] == "Inconclusive", 4000)
    assert (status["phase"], status["stable"]["version"]) == ("Paused", 1)
    assert world.status["rejected"] == [], "it may be the pods' number that is wrong"


async def test_once_it_bears_the_load_it_is_promoted() -> None:
    world, operator = await serving(spec(scaleDownDelay="60s"))
    world.behaviours[2] = Behaviour(refused_rate=0.6)
    await until(world, operator, lambda s: s["reason"] == "Overloaded")
    world.behaviours[2] = Behaviour()
    await until(world, operator, serves(2))
