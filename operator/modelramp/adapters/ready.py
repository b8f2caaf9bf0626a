"""Waiting for what the operator can't work without: an API server that answers and knows the resource."""

import asyncio
import logging

from modelramp.adapters.kube_api import KubeApi
from modelramp.api import API_VERSION, KIND, PLURAL
from modelramp.ports import ClusterError

logger = logging.getLogger(__name__)

PATIENCE = 60.0
INTERVAL = 2.0


async def await_resource(api: KubeApi, patience: float = PATIENCE) -> None:
    """Raises ClusterError, with what is missing and what to do, if it is still missing after ``patience`` seconds."""
    deadline = asyncio.get_running_loop().time() + patience
    trouble = ""
    while True:
        now = await _missing(api)
        if not now:
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise ClusterError(now)
        if now != trouble:
            logger.warning("waiting: %s", now)
        trouble = now
        await asyncio.sleep(INTERVAL)


async def _missing(api: KubeApi) -> str:
    try:
        known = await api.find(f"/apis/{API_VERSION}")
    except ClusterError as error:
        return str(error)
    if known is not None and any(resource["name"] == PLURAL for resource in known["resources"]):
        return ""
    return f"the API server at {api.host} does not know {KIND} ({API_VERSION}): apply crds/modeldeployments.yaml"
