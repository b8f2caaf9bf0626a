"""gRPC's standard health service, read from the server's own readiness each time."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

_TICK = 0.25  # seconds between two looks of a watch


class Health(HealthServicer):  # type: ignore[misc]
    """SERVING while the server is ready: not while it loads, not while it drains. `services` are the names it knows."""

    def __init__(self, services: frozenset[str], is_ready: Callable[[], bool]) -> None:
        self._services = services
        self._is_ready = is_ready
        self.closed = False

    async def Check(self, request: HealthCheckRequest, context: grpc.aio.ServicerContext) -> HealthCheckResponse:  # noqa: N802
        """The state now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:200]!r} here")
        return HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: HealthCheckRequest, _: grpc.aio.ServicerContext
    ) -> AsyncIterator[HealthCheckResponse]:
        """The state now, and each time it changes; ends with the server, which would else wait for its watchers."""
        told = None
        while not self.closed:
            status = self._status(request.service)
            if status != told:
                yield HealthCheckResponse(status=status)
                told = status
            await asyncio.sleep(_TICK)

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._is_ready() else HealthCheckResponse.NOT_SERVING
