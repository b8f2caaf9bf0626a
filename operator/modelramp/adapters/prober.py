"""The Prober port: what a pod says of its model, and what its model answers (docs/contract.md).

An inference answer counts only with the header that names the pod's revision: an address may have passed to another
pod, and the API server's proxy answers by itself when it does not reach one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from modelramp.adapters.pod_http import Fetch, PodAnswer, PodRequest, Unreadable
from modelramp.domain.findings import Inference, Tensor
from modelramp.domain.world import Pod
from modelramp.ports import ProbeError

SECONDS = 5.0
GRACE = 3.0  # beyond the budget of an inference, for the server to say that it is spent
MOST_TENSORS = 1000
LONGEST_INTEGER = 300  # digits; longer ones are no numbers that a model means
RELAYED = {"x-modelramp-relayed": "smoke"}
DURATION = re.compile(r"(?:^|,)\s*service\s*;\s*dur=([0-9]{1,9}(?:\.[0-9]{1,9})?)")


class PodProber:
    """Asks pods by ``fetch``."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def inputs(self, namespace: str, pod: Pod, model: str) -> tuple[Tensor, ...]:
        path = f"/v2/models/{quote(model, safe='')}"
        answer = await self._ask(namespace, pod, PodRequest(path, SECONDS))
        if answer.status != 200:
            raise ProbeError(f"GET {path} answered {answer.status}")
        try:
            listed = parsed(answer)["inputs"]
            return tuple(_tensor(entry) for entry in listed[:MOST_TENSORS])
        except (KeyError, TypeError, ValueError) as error:
            raise ProbeError(f"GET {path} answered something that is no model metadata") from error

    async def example(self, namespace: str, pod: Pod, model: str) -> Mapping[str, Any] | None:
        path = f"/v2/models/{quote(model, safe='')}/example"
        answer = await self._ask(namespace, pod, PodRequest(path, SECONDS))
        said = parsed(answer)
        if answer.status == 404 and isinstance(said, dict) and "error" in said:  # the pod's 404, not the proxy's
            return None
        if answer.status != 200 or not isinstance(said, dict):
            raise ProbeError(f"GET {path} answered {answer.status}")
        return said

    async def infer(self, namespace: str, pod: Pod, body: Mapping[str, Any], seconds: float) -> Inference:
        headers = {**RELAYED, "x-request-timeout": f"{seconds:g}"}
        request = PodRequest("/invocations", seconds + GRACE, json.dumps(body).encode(), headers)
        answer = await self._ask(namespace, pod, request)
        if answer.headers.get("x-modelramp-revision") != pod.revision:
            raise ProbeError(f"POST /invocations answered {answer.status}, and not by revision {pod.revision}")
        told = DURATION.search(answer.headers.get("server-timing", ""))
        return Inference(answer.status, parsed(answer), float(told[1]) / 1000 if told else 0.0)

    async def _ask(self, namespace: str, pod: Pod, request: PodRequest) -> PodAnswer:
        try:
            return await self._fetch(namespace, pod, request)
        except Unreadable as error:
            raise ProbeError(str(error)) from error


def parsed(answer: PodAnswer) -> Any:
    """The body as JSON; or as text, where it is none."""
    try:
        return json.loads(answer.body, parse_int=_integer)
    except (ValueError, RecursionError):
        return answer.body[:1000].decode(errors="replace")


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= LONGEST_INTEGER else float(digits)


def _tensor(entry: Any) -> Tensor:
    return Tensor(str(entry["name"]), str(entry["datatype"]), tuple(int(size) for size in entry["shape"]))
