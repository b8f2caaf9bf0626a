"""The statuses of all ModelDeployments, by a watch: lists of them all would cost the API server more than it shows."""

import asyncio
from collections.abc import Callable
from typing import Self

from modelramp.adapters.kube_api import KubeApi, everywhere
from modelramp.adapters.observe import OWNER
from modelramp.ports import ClusterError, Object

NOT_YET = 429  # the API server has only just heard of the kind
AGAIN_SECONDS = 1.0


class Statuses:
    """While entered, as the watch shows them."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._of: dict[str, Object] = {}

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.cancel()

    def count(self, done: Callable[[Object], bool]) -> int:
        """Those of which it is true. Raises what ended the watch, if anything did."""
        if self._watch.done():
            self._watch.result()
        return sum(map(done, self._of.values()))

    async def _follow(self) -> None:
        while True:  # each watch begins with what there is
            try:
                async for event in self._api.watch(everywhere(OWNER)):
                    if event["type"] != "BOOKMARK":
                        self._of[event["object"]["metadata"]["uid"]] = event["object"].get("status", {})
            except ClusterError as error:
                if error.status != NOT_YET:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)
