"""The Metrics port: what stable's pods count, read from their own /metrics (docs/contract.md, "Metrics")."""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from modelramp.adapters.exposition import pod_metrics
from modelramp.adapters.pod_http import Fetch, PodRequest, Unreadable
from modelramp.domain.world import Pod, PodMetrics

logger = logging.getLogger(__name__)

SECONDS = 2.0
AT_ONCE = 64


class Scraper:
    """Reads pods concurrently by ``fetch``."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def read(self, namespace: str, pods: Iterable[Pod]) -> Mapping[str, PodMetrics]:
        listed = list(pods)
        answers = await asyncio.gather(*(self._read(namespace, pod) for pod in listed))
        return {pod.name: answer for pod, answer in zip(listed, answers, strict=True) if answer is not None}

    async def _read(self, namespace: str, pod: Pod) -> PodMetrics | None:
        try:
            async with self._slots:
                answer = await self._fetch(namespace, pod, PodRequest("/metrics", SECONDS))
            if answer.status != 200:
                raise ValueError(f"GET /metrics answered {answer.status}")
            return pod_metrics(answer.body.decode())
        except (Unreadable, ValueError) as error:
            named = {"namespace": namespace}
            logger.info("pod %s does not tell its metrics: %s", pod.name, str(error) or "no answer", extra=named)
            return None
