"""The configured Prometheus servers: who may ask which query, and what it answers. Bounded: no pass waits for long."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from modelramp.domain.findings import Answer, Question, Refused
from modelramp.domain.queries import filled
from modelramp.domain.world import Unreachable
from modelramp.ports import Key, Queries, QueryError

SECONDS = 5.0  # of a pass, waiting for a turn included
AT_ONCE = 8  # queries to one server
ASK = "ask the operator's administrator"
MEND = f"mend analysis.queries, or {ASK}"


@dataclass(frozen=True)
class SourceConfig:
    """A server as the administrator configured it: what may be asked of it, by name, and by whom."""

    queries: Mapping[str, str]
    namespaces: tuple[str, ...] = ("*",)

    def allows(self, namespace: str) -> bool:
        return any(fnmatchcase(namespace, glob) for glob in self.namespaces)


class Sources:
    """Never raises for what cannot be asked: that is an answer too."""

    def __init__(self, configs: Mapping[str, SourceConfig], adapters: Mapping[str, Queries]) -> None:
        self._configs = configs
        self._adapters = adapters
        self._turns = {name: asyncio.Semaphore(AT_ONCE) for name in configs}

    async def ask(self, key: Key, questions: Sequence[Question]) -> Mapping[str, Answer]:
        """By the query's name: its value where that is wanted, and a refusal whether it is or not."""
        answers = await asyncio.gather(*(self._answer(key, question) for question in questions))
        return {question.query: answer for question, answer in zip(questions, answers, strict=True)}

    async def _answer(self, key: Key, question: Question) -> Answer:
        refused = self._refused(key.namespace, question)
        if refused is not None or question.about is None:
            return refused
        template = self._configs[question.source].queries[question.query]
        try:
            query = filled(template, {"namespace": key.namespace, "name": key.name, **question.about})
            async with asyncio.timeout(SECONDS), self._turns[question.source]:
                return await self._adapters[question.source].value(query)
        except TimeoutError:
            return Unreachable(f"{question.source}: no answer within {SECONDS:g} s")
        except (QueryError, ValueError) as error:
            return Unreachable(f"{question.source}: {error}")

    def _refused(self, namespace: str, question: Question) -> Refused | None:
        config = self._configs.get(question.source)
        if config is None:
            told = f"the operator has no source {question.source!r}, {only(self._configs)}; {MEND}"
            return Refused("QueryNotConfigured", told)
        if not config.allows(namespace):
            told = f"namespace {namespace} may not ask the source {question.source!r}; {ASK}"
            return Refused("QueryNotAllowed", told)
        if question.query not in config.queries:
            told = f"source {question.source!r} has no query {question.query!r}, {only(config.queries)}; {MEND}"
            return Refused("QueryNotConfigured", told)
        return None


def only(names: Mapping[str, object]) -> str:
    return f"only {', '.join(sorted(names))}" if names else "and no other"
