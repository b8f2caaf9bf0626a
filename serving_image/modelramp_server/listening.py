"""Whether the addresses of the settings can be listened on, told before a model is loaded for nothing."""

import socket

from modelramp_server.settings import InvalidSettings, ServeSettings


def check(settings: ServeSettings) -> None:
    """Raises InvalidSettings where somebody else has a port, or this machine has no such address."""
    _check("APP_PORT", settings.app_host, settings.app_port)
    if settings.grpc_port is not None:
        if settings.grpc_port == settings.app_port != 0:
            raise InvalidSettings(f"APP_PORT and GRPC_PORT are both {settings.grpc_port}: each needs its own")
        _check("GRPC_PORT", settings.app_host, settings.grpc_port)


def _check(setting: str, host: str, port: int) -> None:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise InvalidSettings(f"{setting} ({port}) of APP_HOST ({host}) can't be had: {error.strerror}") from None
