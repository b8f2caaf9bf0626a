"""Asks what the gates want to know, of registries and pods. Bounded: a pass must not take longer than a minute."""

import asyncio
from dataclasses import replace
from statistics import median

from modelramp.domain.findings import (
    Findings,
    Inference,
    Metrics,
    NoExample,
    Questions,
    Served,
    Signature,
    Smoked,
    SmokeTest,
    Tags,
)
from modelramp.domain.world import ModelVersion, Unreachable
from modelramp.engine.registries import Registries
from modelramp.ports import ProbeError, Prober

SECONDS = 30.0  # the budget of a smoke request, as the server's own default
TIMED_SECONDS = 12.0  # of each of three, where the latency counts; a bound may be 10 s at most
TIMES = 3


class Inquiry:
    """Never raises for what cannot be asked: that is an answer too."""

    def __init__(self, registries: Registries, prober: Prober) -> None:
        self._registries = registries
        self._prober = prober

    async def ask(self, namespace: str, questions: Questions) -> Findings:
        if questions == Questions():
            return Findings()
        metrics, stable_metrics, tags, inputs, stable_inputs, smoke = await asyncio.gather(
            self._metrics(namespace, questions.metrics),
            self._metrics(namespace, questions.stable_metrics),
            self._tags(namespace, questions.tags),
            self._inputs(namespace, questions.inputs),
            self._inputs(namespace, questions.stable_inputs),
            self._smoke(namespace, questions.smoke),
        )
        return Findings(metrics, stable_metrics, tags, inputs, stable_inputs, smoke)

    async def _metrics(self, namespace: str, model: ModelVersion | None) -> Metrics:
        return None if model is None else await self._registries.metrics(namespace, model)

    async def _tags(self, namespace: str, model: ModelVersion | None) -> Tags:
        return None if model is None else await self._registries.tags(namespace, model)

    async def _inputs(self, namespace: str, served: Served | None) -> Signature:
        if served is None:
            return None
        try:
            return await self._prober.inputs(namespace, served.pod, served.model)
        except ProbeError as error:
            return Unreachable(f"pod {served.pod.name}: {error}")

    async def _smoke(self, namespace: str, question: tuple[str, SmokeTest, Served] | None) -> dict[str, Smoked]:
        if question is None:
            return {}
        gate, test, served = question
        try:
            return {gate: await self._try(namespace, test, served)}
        except ProbeError as error:
            return {gate: Unreachable(f"pod {served.pod.name}: {error}")}

    async def _try(self, namespace: str, test: SmokeTest, served: Served) -> Smoked:
        """One answer; where the latency counts, the last of three with the median of their service times."""
        body = test.body
        if body is None:
            body = await self._prober.example(namespace, served.pod, served.model)
        if body is None:
            return NoExample()
        if test.latency is None:
            return await self._prober.infer(namespace, served.pod, body, SECONDS)
        answers: list[Inference] = []
        for _ in range(TIMES):
            answers.append(await self._prober.infer(namespace, served.pod, body, TIMED_SECONDS))
            if not answers[-1].ok:
                return answers[-1]
        return replace(answers[-1], seconds=median(answer.seconds for answer in answers))
