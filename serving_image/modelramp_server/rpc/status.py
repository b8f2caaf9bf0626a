"""An answer's HTTP status and headers as gRPC's status code, details and trailing metadata."""

import orjson
from grpc import StatusCode

from modelramp_server.exchange import Answer, Header

CLIENT_GONE = 499  # as web servers log it: the call was cancelled, and nobody got its answer

_CODES = {
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    501: StatusCode.UNIMPLEMENTED,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
_LONGEST = 1000  # characters of details; clients refuse metadata of more than 8 KiB
_PASSED_BACK = (b"server-timing", b"retry-after")
_RETRY_AFTER = "retry-after"

Metadata = tuple[tuple[str, str], ...]


def code_of(status: int) -> StatusCode:
    """The status code that says what the HTTP status does."""
    if status < 300:
        return StatusCode.OK
    return _CODES.get(status, StatusCode.INVALID_ARGUMENT if 400 <= status < 500 else StatusCode.INTERNAL)


def details_of(answer: Answer) -> str:
    """The sentence of `{"error": ...}`."""
    try:
        text = str(orjson.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        text = f"status {answer.status}"
    return text[:_LONGEST]


def metadata_of(headers: list[Header]) -> Metadata:
    """What clients may want to know; gRPC's own retry key goes beside `retry-after`."""
    told = [
        (name.decode("ascii"), value.decode("ascii"))
        for name, value in headers
        if (name.startswith(b"x-modelramp-") or name in _PASSED_BACK) and value.isascii()
    ]
    pushback = [("grpc-retry-pushback-ms", f"{value}000") for name, value in told if name == _RETRY_AFTER]
    return (*told, *pushback)
