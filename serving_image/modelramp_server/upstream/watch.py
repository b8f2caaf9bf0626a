"""Whether the upstream is ready, looked at every second: what it declares, and a warm-up, before it is relied on."""

import asyncio
import logging
from collections.abc import Iterator
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from modelramp_server.batching.model_thread import LoadedModel, Watcher
from modelramp_server.batching.warmup import Inputs, row_variants
from modelramp_server.protocol import invocations
from modelramp_server.protocol.errors import BadRequest, BadUpstream, ModelFailed, OutOfTime, ServingError
from modelramp_server.protocol.params import Params
from modelramp_server.protocol.tensors import DTYPES, TensorSpec
from modelramp_server.runtime.base import ModelProblem, UnsupportedModel, WarmupFailed
from modelramp_server.upstream.asking import Upstream, sentence

RUNTIME = "upstream"
LOOK_EVERY = 1.0
_PATIENCE = 2.0  # seconds, with a page
_SILENT = 3
"""Requests in a row without an answer after which the upstream is taken for hung, whatever its health says."""

log = logging.getLogger(__name__)


class _Tensor(BaseModel):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _Metadata(BaseModel):
    inputs: list[_Tensor] = Field(min_length=1)
    outputs: list[_Tensor] = Field(min_length=1)


class UpstreamWatch:
    """Tells the watcher when the upstream is ready, each time anew; `waits` says why it is not."""

    def __init__(self, upstream: Upstream, forwards: int, example: bytes | None) -> None:
        """
        Args:
            forwards: requests of the warm-up.
            example: a body for `/invocations`, to be tried first.
        """
        self._upstream = upstream
        self._forwards = forwards
        self._example = example
        self._waits = f"the upstream {upstream.url} has not been asked yet"
        self._served = False
        self._pages: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop, watcher: Watcher) -> None:
        """Begin to look, on the loop."""
        limits = aiohttp.ClientTimeout(total=_PATIENCE)
        self._pages = aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(force_close=True))
        self._task = loop.create_task(self._watch(watcher))

    async def close(self) -> None:
        """Look no more, and ask no more."""
        if self._task is not None:
            self._task.cancel()
        if self._pages is not None:
            await self._pages.close()
        await self._upstream.close()

    @property
    def address(self) -> str:
        """The model's, there."""
        return self._upstream.url

    def waits(self) -> str:
        """Why it is not ready, in a sentence; "" where it is."""
        return self._waits

    async def _watch(self, watcher: Watcher) -> None:
        while True:
            try:
                await self._look(watcher)
            except ServingError as error:
                self._say(error.message)
            except ModelProblem as problem:
                self._say(str(problem))
                if not self._served:  # later it is the upstream's, and may pass
                    watcher.failed(problem)
                    return
            except Exception as error:
                log.exception("looking at the upstream failed")
                self._say(f"looking at the upstream {self._upstream.url} failed: {error}")
            else:
                self._waits, self._served = "", True
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, watcher: Watcher) -> None:
        await self._page("/ready")
        if (silent := self._upstream.silent) >= _SILENT:
            self._say(f"the upstream {self._upstream.url} left the last {silent} requests unanswered")
        if self._waits:
            watcher.ready(await self._prepare())
            log.info("ready: %s", self._upstream.url)

    def _say(self, waits: str) -> None:
        if waits != self._waits:
            log.warning("not ready: %s", waits)
        self._waits = waits

    async def _prepare(self) -> LoadedModel:
        """What the upstream declares, once it has answered the warm-up."""
        metadata = await self._page("")
        try:
            declared = _Metadata.model_validate_json(metadata)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "body"
            raise BadUpstream(f"{self._upstream.url} is no metadata of a V2 model: {where}: {first['msg']}") from None
        inputs, outputs = _specs(declared.inputs), _specs(declared.outputs)
        self._upstream.declared = {spec.name: spec for spec in outputs}
        model = LoadedModel(RUNTIME, RUNTIME, inputs, outputs, True, 1, Params(), frozenset(), "")
        await self._warm_up(model)
        return model

    async def _warm_up(self, model: LoadedModel) -> None:
        failure, upstream = "", self._upstream
        for variant in self._variants(model):
            try:
                for _ in range(self._forwards):
                    await upstream.ask(variant, upstream.timeout, upstream.timeout)
            except (BadRequest, ModelFailed) as error:
                log.warning("a request of the warm-up failed: %s", error.message)
                failure = failure or error.message
            except OutOfTime:
                told = f"did not answer a request of the warm-up within {upstream.timeout:g} s"
                raise BadUpstream(f"the upstream {upstream.url} {told}") from None
            else:
                return
        raise WarmupFailed(f"{upstream.url} failed on every input made from what it declares: {failure}")

    def _variants(self, model: LoadedModel) -> Iterator[Inputs]:
        """The example that was logged with the model, then what fits its declared inputs."""
        if self._example is not None:
            try:
                yield invocations.decode(self._example, model).inputs
            except BadRequest as error:
                log.warning("the model's example is not what %s takes: %s", self._upstream.url, error)
        yield from row_variants(model.inputs, None)

    async def _page(self, path: str) -> bytes:
        """A page of the model's.

        Raises:
            BadUpstream: there is none, or not now.
        """
        assert self._pages is not None
        url = self._upstream.url + path
        try:
            async with self._pages.get(url, allow_redirects=False) as response:
                body = await response.read()
        except TimeoutError:
            raise BadUpstream(f"the upstream did not answer within {_PATIENCE:g} s: {url}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise BadUpstream(f"the upstream can't be reached: {url}: {error or type(error).__name__}") from None
        if response.status != 200:
            raise BadUpstream(f"the upstream is not ready: {url}: {sentence(response.status, body)}")
        return body


def model_url(upstream: str, name: str) -> str:
    """The model's address at the upstream, which may be given whole."""
    return upstream if "/v2/models/" in upstream else f"{upstream}/v2/models/{quote(name, safe='')}"


def _specs(tensors: list[_Tensor]) -> tuple[TensorSpec, ...]:
    for tensor in tensors:
        if tensor.datatype not in DTYPES:
            raise UnsupportedModel(
                f"the upstream's tensor {tensor.name} is {tensor.datatype}, which is not served here"
            )
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)
