"""What other systems may send: MLflow says that something has changed, and approvers say yes. On a port of its own.

A webhook of a registry is a nudge: the registry is asked at once, and nothing of the body is believed. An approval
counts for one attempt of one revision. Only the leader takes them; the others answer 503, and the sender tries again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelramp.domain.world import Approval
from modelramp.edge.signatures import Refused, Signed, Window
from modelramp.engine.approvals import Approvals, Busy
from modelramp.ports import Clock, Key

MOST_BYTES = 64 * 1024

Nudge = Callable[[str], None]


@dataclass(frozen=True)
class Approver:
    """Another system whose approvals count, where its globs of namespaces say so."""

    secret_file: Path
    namespaces: tuple[str, ...] = ("*",)

    def may(self, namespace: str) -> bool:
        return any(fnmatchcase(namespace, glob) for glob in self.namespaces)


class ApprovalBody(BaseModel):
    """What an approver sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    namespace: str = Field(min_length=1)
    name: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    attempt: int = Field(ge=1)


class Webhooks:
    """``registries``: the keys of those that send webhooks, by name; ``approvers`` by the name that steps call them."""

    def __init__(self, clock: Clock, registries: Mapping[str, Path], approvers: Mapping[str, Approver]) -> None:
        self._window = Window(clock)
        self._registries = registries
        self._approvers = approvers
        self._leading: tuple[Nudge, Approvals] | None = None

    def __bool__(self) -> bool:
        """Whether there is anybody to listen to."""
        return bool(self._registries or self._approvers)

    def lead(self, nudge: Nudge, approvals: Approvals) -> None:
        """From now on this process takes what comes."""
        self._leading = nudge, approvals

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MOST_BYTES)
        application.router.add_post("/registries/{name}", self._answering(self._registry))
        application.router.add_post("/approvals/{name}", self._answering(self._approval))
        return application

    def _answering(
        self, take: Callable[[web.Request], Awaitable[str]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A sentence for whatever happens."""

        async def answer(request: web.Request) -> web.Response:
            try:
                return web.Response(text=f"{await take(request)}\n")
            except Refused as refused:
                status, text = refused.status, str(refused)
            except Busy as busy:
                status, text = 503, str(busy)
            except web.HTTPRequestEntityTooLarge:
                status, text = 413, f"the body is larger than {MOST_BYTES} bytes"
            response = web.Response(status=status, text=f"{text}\n")
            if status == 503:
                response.headers["Retry-After"] = "1"
                response.force_close()  # by another connection it may reach the leader
            return response

        return answer

    async def _registry(self, request: web.Request) -> str:
        nudge, _ = self._taken()
        name = request.match_info["name"]
        if name not in self._registries:
            raise Refused(404, f"no registry {name!r} with a webhookSecretFile in the operator's configuration")
        signed = Signed.by_mlflow(request.headers, await request.read())
        self._window.verify(signed, self._registries[name])
        if not self._window.first(signed.delivery):
            return "taken before"
        nudge(name)
        return "the registry is asked"

    async def _approval(self, request: web.Request) -> str:
        _, approvals = self._taken()
        name = request.match_info["name"]
        approver = self._approvers.get(name)
        if approver is None:
            raise Refused(404, f"no {name!r} among the approvals in the operator's configuration")
        body = await request.read()
        signed = Signed.by_modelramp(request.headers, body)
        self._window.verify(signed, approver.secret_file)
        key, approval = read(name, body)
        if not approver.may(key.namespace):
            raise Refused(403, f"{name} may not approve in namespace {key.namespace}")
        if not self._window.first(signed.delivery):
            raise Refused(409, "this request was answered before; sign another with the time of now")
        try:
            refusal = await approvals.offer(key, approval)
        except Busy:
            self._window.forget(signed.delivery)
            raise
        if refusal:
            raise Refused(409, refusal)
        return "approved"

    def _taken(self) -> tuple[Nudge, Approvals]:
        if self._leading is None:
            raise Refused(503, "this replica does not lead; send it again")
        return self._leading


def read(approver: str, body: bytes) -> tuple[Key, Approval]:
    """Raises Refused."""
    try:
        said = ApprovalBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(400, f"{where}: {first['msg']}; an approval is namespace, name, revision, attempt") from error
    return Key(said.namespace, said.name), Approval(approver, said.revision, said.attempt)
