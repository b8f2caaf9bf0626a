"""Handing one request to the candidate under the safety net: whatever the candidate does, the client gets an answer."""

import re
import time
from collections.abc import Awaitable, Callable

from modelramp_server.exchange import Answer, InferenceRequest
from modelramp_server.prediction import HEADER, Prediction
from modelramp_server.relay import whole
from modelramp_server.relay.breaker import Admission, Breaker
from modelramp_server.relay.budget import candidate_budget
from modelramp_server.relay.client import CandidateClient, CandidateFailed
from modelramp_server.relay.outcomes import (
    FAILURES,
    Net,
    Outcome,
    Verdict,
    endangers_stable,
    judge,
    judge_refusal,
)
from modelramp_server.relay.quantile import RecentP99

# Bytes of requests in the candidate's hands at one time.
INFLIGHT_LIMIT = 128 * 1024 * 1024
_DURATION = re.compile(rb"(?:^|,)\s*service\s*;\s*dur=(\d{1,9}(?:\.\d{1,9})?)\s*(?:[,;]|$)")

Local = Callable[[InferenceRequest], Awaitable[Answer]]


class Relay:
    """One candidate, seen from one pod: its client, its breaker, its latency."""

    def __init__(
        self,
        client: CandidateClient,
        revision: str,
        local: Local,
        stable_p99: RecentP99,
        clock: Callable[[], float] = time.monotonic,
        net_answered: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._client = client
        self._revision = revision
        self._local = local
        self._stable_p99 = stable_p99
        self._clock = clock
        self._net_answered = net_answered
        self._bytes = 0
        self.candidate_p99 = RecentP99()
        self.breaker = Breaker()
        self.inflight = 0

    async def answer(self, request: InferenceRequest) -> tuple[Answer, Outcome]:
        """The client's answer, and how it counts on the candidate's side."""
        answer, verdict = await self._try(request)
        if answer is not None and verdict is not None:
            return answer, verdict.outcome
        own = await self._local(request)
        if verdict is None and answer is not None:
            verdict = judge_refusal(own.status)
            if verdict.net is None:
                return answer, verdict.outcome
        assert verdict is not None and verdict.net is not None
        own.headers.append((b"x-modelramp-net", verdict.net.value.encode()))
        self._net_answered(verdict.net.value)
        return own, verdict.outcome

    async def _try(self, request: InferenceRequest) -> tuple[Answer | None, Verdict | None]:
        """(answer, verdict) of the candidate; (answer, None) where stable must be asked; (None, verdict) else."""
        now = self._clock()
        budget = candidate_budget(request.deadline - now, self._stable_p99.value, self.candidate_p99.value)
        asked = request.as_rest()
        size = len(asked.body)
        if budget <= 0 or self._bytes + size > INFLIGHT_LIMIT:
            return None, FAILURES[Net.SIZE]
        admission = self.breaker.admit(now)
        if admission is Admission.REFUSED:
            return None, FAILURES[Net.BREAKER]
        self._bytes += size
        self.inflight += 1
        verdict: Verdict | None = FAILURES[Net.BROKEN]
        try:
            answer = request.read(await whole.ask(self._client, asked, self._revision, budget))
            verdict = judge(answer.status)
        except CandidateFailed as failure:
            verdict = FAILURES[failure.reason]
            return None, verdict
        except ValueError:
            return None, verdict
        finally:
            self._bytes -= size
            self.inflight -= 1
            failed = verdict is not None and endangers_stable(verdict.outcome)
            self.breaker.record(admission, failed, self._clock())
        return self._received(answer, verdict, self._clock() - now)

    def _received(self, answer: Answer, verdict: Verdict | None, took: float) -> tuple[Answer | None, Verdict | None]:
        if verdict is not None and verdict.net is not None:
            return None, verdict
        headers = dict(answer.headers)
        told = headers.get(HEADER)
        if told is not None:  # for this pod's counters only
            answer.headers = [each for each in answer.headers if each[0] != HEADER]
            answer.prediction = Prediction.from_header(told)
        if b"x-modelramp-revision" not in headers:
            answer.headers.append((b"x-modelramp-revision", self._revision.encode()))
        if verdict is not None:
            self.candidate_p99.add(took)
            answer.service = service_time(answer, took)
        return answer, verdict


def service_time(answer: Answer, took: float) -> float:
    """Seconds, as the server that answered reports them; else what the whole exchange took."""
    duration = _DURATION.search(dict(answer.headers).get(b"server-timing", b""))
    return float(duration[1]) / 1000 if duration else took
