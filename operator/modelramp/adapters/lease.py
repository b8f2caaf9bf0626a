"""The Lease of leader election, kept in the API server.

``kubernetes.aio`` brings a leader election too; it compares wall clocks, can't tell at an instant whether the lease
still holds, and does not release it. So only its connection is used.
"""

from datetime import datetime

from modelramp.adapters.kube_api import KubeApi, path_of
from modelramp.api.base import format_time
from modelramp.engine.leader import LeaseRecord
from modelramp.ports import Key, Kind, Object

LEASE = Kind("coordination.k8s.io/v1", "Lease")


class KubeLease:
    """The LeaseStore protocol on one Lease object."""

    def __init__(self, api: KubeApi, key: Key) -> None:
        self._api = api
        self._key = key

    async def read(self) -> LeaseRecord | None:
        lease = await self._api.find(path_of(LEASE, *self._key))
        return None if lease is None else _record(lease)

    async def write(self, record: LeaseRecord) -> LeaseRecord:
        body = self._lease(record)
        if not record.resource_version:
            return _record(await self._api.write("POST", path_of(LEASE, self._key.namespace), body))
        body["metadata"]["resourceVersion"] = record.resource_version
        return _record(await self._api.write("PUT", path_of(LEASE, *self._key), body))

    def _lease(self, record: LeaseRecord) -> Object:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"namespace": self._key.namespace, "name": self._key.name},
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": record.duration,
                "acquireTime": format_time(record.acquired),
                "renewTime": format_time(record.renewed),
                "leaseTransitions": record.transitions,
            },
        }


def _record(lease: Object) -> LeaseRecord:
    spec = lease.get("spec") or {}
    epoch = "1970-01-01T00:00:00Z"
    return LeaseRecord(
        holder=spec.get("holderIdentity") or "",
        duration=spec.get("leaseDurationSeconds") or 1,
        acquired=datetime.fromisoformat(spec.get("acquireTime") or epoch),
        renewed=datetime.fromisoformat(spec.get("renewTime") or epoch),
        transitions=spec.get("leaseTransitions") or 0,
        resource_version=lease["metadata"]["resourceVersion"],
    )
