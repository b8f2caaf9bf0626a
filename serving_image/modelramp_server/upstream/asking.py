"""Requests to the upstream, and what becomes of its answers: outputs that are what it declares, or an error that says
whose it is."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from modelramp_server.batching.jobs import LEFT
from modelramp_server.exchange import HEADER_LENGTH, Answer, InferenceRequest
from modelramp_server.observability import outputs
from modelramp_server.protocol import v2_client
from modelramp_server.protocol.errors import (
    BadRequest,
    BadUpstream,
    ClientLeft,
    ModelFailed,
    OutOfTime,
    QueueFull,
    ServingError,
    UpstreamBusy,
)
from modelramp_server.protocol.tensors import Array, TensorSpec, datatype_of, fits
from modelramp_server.relay.client import CandidateClient, CandidateFailed
from modelramp_server.relay.outcomes import Net

_FAILURES = {
    Net.REFUSED: "can't be reached",
    Net.BROKEN: "broke its answer off, or sent none that is HTTP",
    Net.SIZE: "sent an answer that is too large (PAYLOAD_LIMIT)",
}


class Upstream:
    """Answers checked inputs in the place of this process's own queue. `declared` are the outputs that are expected,
    by name; `silent` counts the requests in a row that had all the time there is, half of it at least for the upstream,
    and got no answer."""

    def __init__(
        self, url: str, client: CandidateClient, limit: int, timeout: float, not_finite: Callable[[int], None]
    ) -> None:
        """
        Args:
            url: the model's address there.
            client: asks that address.
            limit: requests there at one time.
            timeout: seconds that a request may take.
            not_finite: told how many rows of an answer are not.
        """
        self.url = url
        self.timeout = timeout
        self.declared: dict[str, TensorSpec] = {}
        self.silent = 0
        self._client = client
        self.limit = limit
        self._not_finite = not_finite
        self._inflight = 0

    def depth(self) -> int:
        """Requests there now."""
        return self._inflight

    def admit(self, rows: int, deadline: float) -> None:
        """Refuse what would be one too many; how long it takes is not known here.

        Raises:
            QueueFull: try later.
        """
        if self._inflight >= self.limit:
            raise QueueFull(self.limit, 1)

    async def answer(
        self,
        inputs: dict[str, Array],
        rows: int,
        deadline: float,
        budget: float,
        params: bytes,
        client: Mapping[str, Any],
    ) -> dict[str, Array]:
        """The upstream's outputs; see `ask`.

        Raises:
            QueueFull: see `admit`.
            ClientLeft: nobody waits for the answer any more.
        """
        self.admit(rows, deadline)
        if LEFT in client:
            raise ClientLeft
        self._inflight += 1
        try:
            answer = await self.ask(inputs, deadline - time.monotonic(), budget)
        finally:
            self._inflight -= 1
        outputs.look(answer, self._not_finite)
        return answer

    async def ask(self, inputs: Mapping[str, Array], seconds: float, budget: float) -> dict[str, Array]:
        """The outputs, within so many seconds; `budget` is what the client was given.

        Raises:
            BadRequest: the upstream says that the request is wrong.
            ModelFailed: it says that the model failed.
            BadUpstream: it can't be reached, or answers nonsense.
            UpstreamBusy: it takes no more requests.
            OutOfTime: it has not answered.
        """
        body, header_length = v2_client.request(inputs)
        headers = [(b"content-type", b"application/octet-stream"), (HEADER_LENGTH, b"%d" % header_length)]
        request = InferenceRequest("infer", "/infer", headers, body, header_length, time.monotonic(), seconds)
        try:
            answer = await self._client.ask(request, "", seconds)
        except CandidateFailed as failure:
            if failure.reason is not Net.SLOW:
                raise BadUpstream(f"the upstream {self.url} {_FAILURES[failure.reason]}") from None
            self.silent += budget >= self.timeout <= 2 * seconds
            raise OutOfTime(budget) from None
        self.silent = 0
        if answer.status != 200:
            raise self._refusal(answer)
        return self._outputs(answer)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _refusal(self, answer: Answer) -> ServingError:
        told = sentence(answer.status, answer.body)
        if answer.status == 400:
            return BadRequest(f"the upstream refused the request: {told}")
        if answer.status == 500:
            return ModelFailed(f"the model failed on this input: {told}")
        if answer.status == 503:
            return UpstreamBusy(f"the upstream takes no request now: {told}; try again")
        return BadUpstream(f"the upstream {self.url} answered {answer.status}: {told}")

    def _outputs(self, answer: Answer) -> dict[str, Array]:
        try:
            end = int(dict(answer.headers).get(HEADER_LENGTH, len(answer.body)))
            entries = orjson.loads(answer.body[:end])["outputs"]
            found = {entry["name"]: array for entry, array in v2_client.outputs(entries, memoryview(answer.body)[end:])}
            for name, spec in self.declared.items():
                kind, shape = datatype_of(found[name]), list(found[name].shape)
                if kind != spec.datatype or not fits(found[name], spec):
                    raise ValueError(f"output {name} is {kind} {shape}, not {spec.datatype} {list(spec.shape)}")
        except (BadRequest, ValueError, KeyError, TypeError, AttributeError) as error:
            told = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise BadUpstream(f"the answer of the upstream {self.url} is not what it declares: {told}") from None
        return {name: found[name] for name in self.declared}


def sentence(status: int, body: bytes) -> str:
    """What an error's body says, by the protocol `{"error": ...}`."""
    try:
        return str(orjson.loads(body)["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"status {status}"
