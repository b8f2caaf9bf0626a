"""The Registry port on MLflow, by its own client: it knows every way of authentication that users have. Its stores are
used directly, because they ask for credentials before each request, and each registry has its own.

The client is synchronous, and patient by default (7 retries of 120 s each): here it runs in a few threads and gives up
early, as the next poll asks again anyway. It is imported at the first call, in a thread: it takes seconds, a good part
of the operator's memory, and reads some of its limits from the environment while it loads.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlsplit, urlunsplit

import requests

from modelramp.adapters.credentials import Credentials
from modelramp.domain.world import ModelVersion
from modelramp.ports import RegisteredModel, RegistryError

THREADS = 4
REQUEST_SECONDS = 10
CALL_SECONDS = 30.0
PAGE = 1000  # models, MLflow's largest
MOST_PAGES = 100
LONGEST_LIST = 2000  # bytes of names in one request's line, of which some servers and proxies take 4 KiB only
UNQUOTABLE = frozenset("'\"\\")
DIGEST_TAG = "modelramp.digest"
LONGEST_CAUSE = 300

LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

T = TypeVar("T")


class MlflowRegistry:
    """One registry, named as the administrator named it. ``uri`` may carry user and password; errors won't."""

    def __init__(self, name: str, uri: str, credentials: Credentials | None = None) -> None:
        self._name = name
        self._uri = uri
        self._credentials = credentials or Credentials()
        self._shown = without_credentials(uri)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"mlflow-{name}")

    async def search(self) -> Sequence[RegisteredModel]:
        return await self._call("search of registered models", self._search)

    async def version(self, name: str, version: int) -> ModelVersion | None:
        return await self._call(f"version {version} of model {name!r}", lambda: self._version(name, version))

    async def versions(self, wanted: Collection[tuple[str, int]]) -> Sequence[ModelVersion]:
        found: list[ModelVersion] = []
        for having in searches(wanted):
            found += await self._call("search of versions", partial(self._having, having))
        asked = set(wanted)
        return [version for version in found if (version.name, version.version) in asked]

    async def metrics(self, name: str, version: int) -> Mapping[str, float]:
        what = f"metrics of the run of version {version} of model {name!r}"
        return await self._call(what, lambda: self._metrics(name, version))

    async def tags(self, name: str, version: int) -> Mapping[str, str]:
        return await self._call(f"tags of version {version} of model {name!r}", lambda: self._tags(name, version))

    async def marked(self, tag: str) -> Mapping[tuple[str, int], Mapping[str, str]]:
        return await self._call(f"versions with the tag {tag}", lambda: self._marked(tag))

    async def set_tags(self, name: str, version: int, tags: Mapping[str, str | None]) -> None:
        what = f"tags to version {version} of model {name!r}"
        await self._call(what, lambda: self._set_tags(name, str(version), tags))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, what: str, call: Callable[[], T]) -> T:
        run = asyncio.get_running_loop().run_in_executor
        try:
            await run(self._threads, lambda: (self._models, self._runs))
            async with asyncio.timeout(CALL_SECONDS):
                return await run(self._threads, call)
        except Exception as error:  # the client lets through whatever a strange answer makes its parser raise
            raise RegistryError(f"MLflow at {self._shown}: {what}: {self._cause(error)}") from error

    @cached_property
    def _models(self) -> Any:
        """MLflow's client of a model registry."""
        for name, value in LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow.store.model_registry.rest_store import RestStore

        return RestStore(self._host_credentials)

    @cached_property
    def _runs(self) -> Any:
        from mlflow.store.tracking.rest_store import RestStore

        return RestStore(self._host_credentials)

    def _host_credentials(self) -> Any:
        """MLflow calls this before each request."""
        from mlflow.utils.credentials import get_default_host_creds

        found = get_default_host_creds(self._uri)
        for name, value in self._credentials.read().items():
            setattr(found, name, value)
        return found

    def _search(self) -> list[RegisteredModel]:
        found: list[RegisteredModel] = []
        token = None
        for _ in range(MOST_PAGES):
            page = self._models.search_registered_models(max_results=PAGE, page_token=token)
            found += [_registered(model) for model in page]
            token = page.token
            if not token:
                return found
        raise RegistryError(f"more than {MOST_PAGES * PAGE} registered models")

    def _version(self, name: str, version: int) -> ModelVersion | None:
        found = self._found(name, version)
        return self._told(found) if found is not None else None

    def _having(self, having: str) -> list[ModelVersion]:
        """Every search here has fewer answers than a page holds. An MLflow that knows no lists of names refuses it."""
        try:
            return [self._told(it) for it in self._models.search_model_versions(having, max_results=PAGE)]
        except Exception as error:
            if _says(error, "INVALID_PARAMETER_VALUE"):
                return []
            raise

    def _told(self, found: Any) -> ModelVersion:
        return ModelVersion(
            registry=self._name,
            name=found.name,
            version=int(found.version),
            run_id=found.run_id or "",
            source=found.source or "",
            created=int(found.creation_timestamp or 0),
            digest=(found.tags or {}).get(DIGEST_TAG, ""),
        )

    def _metrics(self, name: str, version: int) -> dict[str, float]:
        found = self._found(name, version)
        if found is None or not found.run_id:
            return {}
        run = _unless_missing(lambda: self._runs.get_run(found.run_id))
        if run is not None and run.info.run_id != found.run_id:
            raise RegistryError("the answer is about something else")
        return {metric: float(value) for metric, value in run.data.metrics.items()} if run is not None else {}

    def _tags(self, name: str, version: int) -> dict[str, str]:
        found = self._found(name, version)
        return {str(tag): str(value) for tag, value in (found.tags or {}).items()} if found is not None else {}

    def _marked(self, tag: str) -> dict[tuple[str, int], dict[str, str]]:
        found: dict[tuple[str, int], dict[str, str]] = {}
        token = None
        for _ in range(MOST_PAGES):
            having = f"tags.`{tag}` LIKE '%'"
            page = self._models.search_model_versions(having, max_results=PAGE, page_token=token)
            found |= {(it.name, int(it.version)): dict(it.tags) for it in page if tag in (it.tags or {})}
            token = page.token
            if not token:
                return found
        raise RegistryError(f"more than {MOST_PAGES * PAGE} versions with the tag {tag}")

    def _set_tags(self, name: str, version: str, tags: Mapping[str, str | None]) -> None:
        from mlflow.entities.model_registry import ModelVersionTag

        for tag, value in tags.items():
            if value is None:
                _unless_missing(partial(self._models.delete_model_version_tag, name, version, tag))
            else:
                self._models.set_model_version_tag(name, version, ModelVersionTag(tag, value))

    def _found(self, name: str, version: int) -> Any:
        """MLflow's own ModelVersion, or None if it has none such."""
        found = _unless_missing(lambda: self._models.get_model_version(name, str(version)))
        if found is not None and (found.name, str(found.version)) != (name, str(version)):
            raise RegistryError("the answer is about something else")
        return found

    def _cause(self, error: Exception) -> str:
        """The part of the client's long story that a person can act on, on one line."""
        for cause in _causes(error):
            match cause:
                case requests.exceptions.Timeout() | TimeoutError():
                    return f"no answer within {REQUEST_SECONDS} s"
                case requests.exceptions.RetryError():
                    return f"answers with errors: {_reason(cause)}"
                case requests.exceptions.ConnectionError():
                    return f"cannot connect: {_reason(cause)}"
        said = " ".join(str(error).split()).replace(self._uri.rstrip("/"), self._shown.rstrip("/"))
        return said[:LONGEST_CAUSE] or type(error).__name__


def searches(wanted: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Filters that find the versions of several models each. MLflow lists names, not numbers; a model that is alone
    with its number, or whose name can't be quoted, is in none of them."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, number in wanted:
        if not UNQUOTABLE & set(name):
            names[number].append(f"'{name}'")
    for number, quoted in names.items():
        for some in _lists(quoted):
            if len(some) > 1:
                yield f"version_number = {number} AND name IN ({', '.join(some)})"


def _lists(quoted: Sequence[str]) -> Iterator[list[str]]:
    some: list[str] = []
    for name in quoted:
        if len(quote_plus(", ".join([*some, name]))) > LONGEST_LIST and some:
            yield some
            some = []
        some.append(name)
    yield some


def without_credentials(uri: str) -> str:
    """The address as it may be shown: without user, password, query."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _registered(model: Any) -> RegisteredModel:
    aliases = {alias: int(version) for alias, version in (model.aliases or {}).items()}
    return RegisteredModel(model.name, aliases, int(model.creation_timestamp or 0))


def _unless_missing(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        if _says_missing(error):
            return None
        raise


def _says_missing(error: Exception) -> bool:
    """Whether MLflow itself says that there is no such thing; stores differ in how they say it."""
    return _says(error, "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or (
        _says(error, "INVALID_PARAMETER_VALUE") and "not found" in str(error).lower()
    )


def _says(error: Exception, *codes: str) -> bool:
    """Whether MLflow itself says one of these, in JSON."""
    from mlflow.exceptions import RestException

    return isinstance(error, RestException) and error.error_code in codes


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: requests.exceptions.RequestException) -> str:
    """What urllib3 gives as the reason of its last try, without its objects' addresses."""
    first = error.args[0] if error.args else error
    reason = str(getattr(first, "reason", first))
    return reason.rpartition(">: ")[2] or reason
