"""``python -m modelramp`` as a process, under the chart's account: what it writes, and how it ends."""

import re
from typing import Any

import pytest

from modelramp.adapters.kube_api import MERGE_PATCH, KubeApi, path_of
from modelramp.adapters.lease import LEASE
from modelramp.adapters.observe import OWNER
from tests.integration.conftest import CreateOwner
from tests.integration.operator_process import NAME, NAMESPACE, Launcher, shown_on_failure, until

pytestmark = pytest.mark.timeout(120)


async def test_kopf_writes_nothing_on_the_users_object(
    start: Launcher, admin: KubeApi, create_owner: CreateOwner, namespace: str
) -> None:
    before = await create_owner()
    operator = await start("one")

    async def judged() -> Any:
        body = await admin.read(path_of(OWNER, namespace, "digits"))
        return body if body["status"].get("conditions") else None

    async with shown_on_failure(operator):
        after = await until(judged)
    assert (before["metadata"].get("annotations"), None) == (
        after["metadata"].get("annotations"),
        after["metadata"].get("finalizers"),
    )
    assert after["spec"] == before["spec"]
    assert {e["manager"] for e in after["metadata"]["managedFields"] if e.get("subresource")} == {NAME}
    assert "has no registry 'default'" in str(after["status"]["conditions"])


async def test_an_operator_whose_lease_was_taken_exits(start: Launcher, admin: KubeApi, namespace: str) -> None:
    operator = await start("one")
    async with shown_on_failure(operator):
        await until(lambda: operator.says("leading as one"))
        stolen = {"spec": {"holderIdentity": "thief"}}
        await admin.write("PATCH", path_of(LEASE, NAMESPACE, NAME), stolen, MERGE_PATCH)
        assert await operator.ended() == 1
    assert re.search("does not hold the lease", operator.log.read_text())


async def test_a_wrong_setting_ends_it_with_a_sentence(start: Launcher) -> None:
    operator = await start("one", pollInterval="often")
    assert await operator.ended() == 2
    assert re.fullmatch(
        r"modelramp: \S+one\.yaml: pollInterval: .*'often' is not a duration.*\n", operator.log.read_text()
    )
