"""Who answers an inference request: this pod's model, or the candidate, as the split in force says."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from modelramp_server.exchange import Answer, InferenceRequest
from modelramp_server.local_model import LocalModel
from modelramp_server.observability.metrics import Metrics
from modelramp_server.prediction import HEADER
from modelramp_server.protocol.errors import ShortOfMemory
from modelramp_server.relay.accumulator import Accumulator
from modelramp_server.relay.client import CandidateClient
from modelramp_server.relay.outcomes import Outcome, judge_local
from modelramp_server.relay.quantile import RecentP99
from modelramp_server.relay.relay import Relay
from modelramp_server.relay.shadow import Shadower
from modelramp_server.relay.split import VERSION, Split, SplitState, UnreadableSplit, parse
from modelramp_server.relay.stickiness import is_candidates, key_of

log = logging.getLogger(__name__)


class Dealt(NamedTuple):
    """The split in force, and whether the request is the candidate's by it."""

    split: Split
    candidates: bool


class Traffic:
    """Deals requests, counts both sides, and exports what it acts on."""

    def __init__(
        self,
        local: LocalModel,
        client: CandidateClient,
        metrics: Metrics,
        pod: str,
        shadower: Shadower,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._client = client
        self._shadower = shadower
        self._metrics = metrics
        self._pod = pod
        self._clock = clock
        self._state = SplitState()
        self._stable_p99 = RecentP99()
        self._relay: tuple[str, Relay] | None = None
        self._dealer: tuple[str, Accumulator] | None = None
        metrics.split_version.set(VERSION)
        metrics.generation.set_function(lambda: self._state.generation)
        metrics.weight.set_function(lambda: split.weight if (split := self.in_force()) else 0)
        metrics.shadow.set_function(lambda: split.shadow.share if (split := self.in_force()) and split.shadow else 0)
        metrics.relay_inflight.set_function(lambda: self._relay[1].inflight if self._relay else 0)
        metrics.breaker_open.set_function(lambda: int(self._relay[1].breaker.is_open) if self._relay else 0)

    @property
    def hand_over(self) -> bool:
        """Whether everything goes to the other side for good, and clients are sent away."""
        split = self.in_force()
        return split is not None and split.hand_over

    def in_force(self) -> Split | None:
        """The split acted on now."""
        return self._state.in_force(self._clock())

    def observe(self, text: str | None) -> None:
        """Take what the split file says; None or "" where there is no annotation."""
        split: Split | None = None
        if text:
            try:
                split = parse(text)
                if split.revision == self._local.revision:
                    raise UnreadableSplit(f"revision {split.revision} is this pod's own")
            except UnreadableSplit as error:
                split = None
                self._metrics.split_unreadable()
                log.error("the split can't be read, weight is 0: %s", error)
        self._state.observe(split, self._clock())

    def admit(self, count: bool) -> None:
        """Refuse a request, before it is read or dealt, while memory is short; `count` as for `answer`.

        Raises:
            ShortOfMemory: counted as stable's refusal.
        """
        try:
            self._local.memory.check()
        except ShortOfMemory:
            self._metrics.refused_answer()
            if count:
                split = self.in_force()
                salt = split.salt if split else ""
                self._metrics.split("stable", self._local.revision, salt, Outcome.REFUSED.value)()
            raise

    async def answer(self, request: InferenceRequest, relayable: bool, count: bool) -> Answer:
        """Answer one inference request.

        Args:
            relayable: False for requests that must be answered here (relayed ones, named versions).
            count: False for relayed requests: the sender counts them.
        """
        return await self.answer_dealt(request, self.deal(request) if relayable else None, count)

    async def answer_dealt(self, request: InferenceRequest, dealt: Dealt | None, count: bool) -> Answer:
        """Answer a request that has been dealt; `count` as for `answer`."""
        if dealt is not None and dealt.candidates:
            return await self._candidate(request, dealt.split)
        return self.own(request, await self._local.answer(request), dealt, count)

    def deal(self, request: InferenceRequest) -> Dealt | None:
        """Whose the request is; None where no split is in force. Each request is dealt once."""
        split = self.in_force()
        return None if split is None else Dealt(split, self._is_candidates(request, split))

    async def _candidate(self, request: InferenceRequest, split: Split) -> Answer:
        answer, outcome = await self._relay_to(split).answer(request)
        self._count("candidate", split.revision, split.salt, outcome, answer)
        return answer

    def own(self, request: InferenceRequest, answer: Answer, dealt: Dealt | None, count: bool) -> Answer:
        """Count this pod's own answer to a request that was not dealt to the candidate."""
        outcome = judge_local(answer.status, answer.status >= 500 and request.whole > request.deadline)
        if outcome is Outcome.BAD:
            self._metrics.bad_answer()
        elif outcome is Outcome.REFUSED:
            self._metrics.refused_answer()
        elif outcome is Outcome.OK:
            self._stable_p99.add(answer.service)
        if count:
            self._count("stable", self._local.revision, dealt.split.salt if dealt else "", outcome, answer)
        elif answer.prediction is not None:
            answer.headers.append((HEADER, answer.prediction.to_header()))
        if dealt is not None:
            self._shadower.offer(request, answer, dealt.split, self._stable_p99.value)
        return answer

    def _is_candidates(self, request: InferenceRequest, split: Split) -> bool:
        """Whether it is the candidate's: by its key where it has one, else so that the share comes out exactly."""
        key = key_of(request.headers, split.header.encode()) if split.header else b""
        if key:
            return is_candidates(split.salt, key, split.weight)
        if self._dealer is None or self._dealer[0] != split.salt:
            self._dealer = (split.salt, Accumulator(split.salt, self._pod))
        return self._dealer[1].deal(split.weight)

    def _relay_to(self, split: Split) -> Relay:
        if self._relay is None or self._relay[0] != split.revision:
            local, clock, told = self._local.answer, self._clock, self._metrics.net_answered
            self._relay = (split.revision, Relay(self._client, split.revision, local, self._stable_p99, clock, told))
        return self._relay[1]

    def _count(self, side: str, target: str, salt: str, outcome: Outcome, answer: Answer) -> None:
        self._metrics.split(side, target, salt, str(outcome))()
        if outcome is Outcome.OK:
            self._metrics.service(side, target, salt)(answer.service)
            if answer.prediction is not None:
                self._metrics.predictions.add(side, target, salt, answer.prediction)
