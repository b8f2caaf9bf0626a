"""The gRPC listener: grpc.aio on the server's own event loop, started and stopped with the HTTP one."""

import logging
import sys
import time

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from modelramp_server.rpc.health import Health
from modelramp_server.rpc.service import SERVICE, InferenceService

# Seconds until a client is asked to open a new connection: it then meets the pods that are there by now. The library
# cuts calls off that reach it while it stops, so all clients must have left before: within half of the lame duck.
CONNECTION_AGE = 60.0

log = logging.getLogger(__name__)


class RpcServer:
    """Listens from `start` to `stop`; `grace` is the time that a call may take."""

    def __init__(
        self, service: InferenceService, host: str, port: int, payload_limit: int, drain_delay: float, grace: float
    ) -> None:
        age = min(CONNECTION_AGE, drain_delay / 2) or CONNECTION_AGE
        self.port = port
        self._host = f"[{host}]" if ":" in host else host
        self._service = service
        self._grace = grace
        self._health = Health(frozenset(("", SERVICE)), service.is_ready)
        self._options = [
            ("grpc.so_reuseport", 0),  # two servers on one port would share its clients
            ("grpc.max_receive_message_length", payload_limit),
            ("grpc.max_connection_age_ms", int(age * 1000)),
            # Also the end of messages that never get whole.
            ("grpc.max_connection_age_grace_ms", int((grace + 5) * 1000)),
        ]

    @property
    def underway(self) -> int:
        """See InferenceService."""
        return self._service.underway

    async def start(self) -> None:
        """Listen. Exits the process where the port can't be had, as the HTTP server does."""
        self._server = grpc.aio.server(options=self._options)
        self._server.add_generic_rpc_handlers((self._service,))
        add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port = self._server.add_insecure_port(f"{self._host}:{self.port}")
        except RuntimeError:
            log.error("GRPC_PORT: can't listen on %s:%d", self._host, self.port)
            sys.exit(1)
        await self._server.start()
        log.info("gRPC on %s:%d", self._host, self.port)

    async def stop(self) -> None:
        """Send clients away, answer what has come, return."""
        self._health.closed = True
        end = time.monotonic() + self._grace
        await self._server.stop(self._grace)
        await self._service.finish(end - time.monotonic())
