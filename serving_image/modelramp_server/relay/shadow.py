"""Shadowing: copies of answered requests go to the candidate, and its answers to nobody.

Fire and forget. A copy is made when stable's answer is ready, in a task of its own, so no answer waits for it; it has
its own connections and its own time; and what does not fit into the bounds is skipped and counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from modelramp_server.exchange import Answer, InferenceRequest
from modelramp_server.observability.metrics import Metrics
from modelramp_server.relay import whole
from modelramp_server.relay.accumulator import Accumulator
from modelramp_server.relay.budget import candidate_budget
from modelramp_server.relay.client import CandidateClient, CandidateFailed
from modelramp_server.relay.compare import compare
from modelramp_server.relay.outcomes import FAILURES, Outcome, judge, judge_refusal
from modelramp_server.relay.quantile import RecentP99
from modelramp_server.relay.relay import service_time
from modelramp_server.relay.split import Shadow, Split

SIDE = "shadow"
AT_ONCE = 16
BODY_LIMIT = 4 * 1024 * 1024  # bytes of a request, and of each of its two answers
INFLIGHT_LIMIT = 32 * 1024 * 1024  # bytes of requests and of stable's answers that copies hold
_OFF_LOOP = 64 * 1024  # bytes of an answer from which comparing leaves the event loop; pictures always do

log = logging.getLogger(__name__)


class Shadower:
    """Copies the share that the split asks for, compares the answers, and counts. Never raises, never waits."""

    def __init__(
        self, client: CandidateClient, metrics: Metrics, pod: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._pod = pod
        self._clock = clock
        self._p99: tuple[str, RecentP99] = ("", RecentP99())
        self._dealer: tuple[str, Accumulator] | None = None
        self._comparer = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._copies: set[asyncio.Task[None]] = set()
        self._bytes = 0
        metrics.shadow_inflight.set_function(lambda: len(self._copies))

    def offer(self, request: InferenceRequest, answer: Answer, split: Split, stable_p99: float) -> None:
        """Take an answered request; what becomes of it is nobody's business but the counters'."""
        rules = split.shadow
        if rules is None or not self._deal(split.salt, rules.share):
            return
        request = request.as_rest()
        held = len(request.body) + len(answer.body)
        budget = candidate_budget(request.budget, stable_p99, self._latency(split.revision).value)
        large = max(len(request.body), len(answer.body)) > BODY_LIMIT or self._bytes + held > INFLIGHT_LIMIT
        if budget <= 0 or large or len(self._copies) >= AT_ONCE:
            return self._count(split, Outcome.SKIPPED)
        self._bytes += held
        task = asyncio.get_running_loop().create_task(self._copy(request, answer, split, rules, budget))
        self._copies.add(task)
        task.add_done_callback(lambda done: self._over(done, held))

    async def close(self) -> None:
        """Drop the copies under way."""
        for task in self._copies:
            task.cancel()
        self._comparer.shutdown(wait=False)
        await self._client.close()

    async def _copy(self, request: InferenceRequest, mine: Answer, split: Split, rules: Shadow, budget: float) -> None:
        started = self._clock()
        try:
            theirs = await whole.ask(self._client, request, split.revision, budget)
        except CandidateFailed as failure:
            return self._count(split, FAILURES[failure.reason].outcome)
        verdict = judge(theirs.status) or judge_refusal(mine.status)
        self._count(split, verdict.outcome)
        if verdict.outcome is not Outcome.OK:
            return
        took = self._clock() - started
        self._latency(split.revision).add(took)
        self._metrics.service(SIDE, split.revision, split.salt)(service_time(theirs, took))
        if 200 <= mine.status < 300:
            await self._compare(request.route, mine, theirs, split, rules)

    async def _compare(self, route: str, mine: Answer, theirs: Answer, split: Split, rules: Shadow) -> None:
        if max(len(mine.body), len(theirs.body)) < _OFF_LOOP and route != "predict":
            agreement = compare(route, mine, theirs, rules)
        else:
            loop = asyncio.get_running_loop()
            agreement = await loop.run_in_executor(self._comparer, compare, route, mine, theirs, rules)
        self._metrics.shadow_answer(split.revision, split.salt, agreement.value)()

    def _over(self, task: asyncio.Task[None], held: int) -> None:
        self._copies.discard(task)
        self._bytes -= held
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a copy to the candidate failed", exc_info=error)

    def _count(self, split: Split, outcome: Outcome) -> None:
        self._metrics.split(SIDE, split.revision, split.salt, outcome.value)()

    def _latency(self, revision: str) -> RecentP99:
        if self._p99[0] != revision:
            self._p99 = (revision, RecentP99())
        return self._p99[1]

    def _deal(self, salt: str, share: int) -> bool:
        if self._dealer is None or self._dealer[0] != salt:
            self._dealer = (salt, Accumulator(f"{salt}/{SIDE}", self._pod))
        return self._dealer[1].deal(share)
