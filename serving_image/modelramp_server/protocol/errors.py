"""The errors a client can see. Each becomes `{"error": "..."}` with the status that fits; never a traceback."""


class ServingError(Exception):
    """An answer other than 2xx.

    Args:
        status: HTTP status of the answer.
        message: one sentence: what was wrong, where, what would do.
        retry_after: seconds for the `Retry-After` header.
        allow: methods for the `Allow` header of a 405.

    `reason` is the label of `modelramp_rejects_total`; empty where nothing was rejected but the request itself.
    """

    reason = ""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.allow = allow


class BadRequest(ServingError):
    """400: the request is not what the protocol or the model's inputs ask for."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class ModelFailed(ServingError):
    """500: the model itself raised on an input that fits its declared inputs."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message)


class NotReady(ServingError):
    """503: the model is still loading or warming up."""

    reason = "not_ready"

    def __init__(self, message: str) -> None:
        super().__init__(503, message, retry_after=1)


class QueueFull(ServingError):
    """503: as many requests wait as the queue holds."""

    reason = "queue_full"

    def __init__(self, limit: int, retry_after: int) -> None:
        super().__init__(
            503, f"the queue is full ({limit} requests wait, QUEUE_LIMIT); try again", retry_after=retry_after
        )


class QueueSlow(ServingError):
    """503: what waits already would take the time that the request has."""

    reason = "queue_slow"

    def __init__(self, wait: float, retry_after: int) -> None:
        super().__init__(
            503,
            f"the requests that wait take about {wait:.2g} s, too long for this request's budget; try again",
            retry_after=retry_after,
        )


class ShortOfMemory(ServingError):
    """503: the process is about to reach its memory limit."""

    reason = "memory"

    def __init__(self, used: int, limit: int) -> None:
        mebibyte = 1024 * 1024
        super().__init__(
            503,
            f"memory is short ({used // mebibyte} of {limit // mebibyte} MiB, MEMORY_LIMIT); try again",
            retry_after=1,
        )


class ClientLeft(ServingError):
    """499: the client closed its connection before the forward began; seen in metrics only."""

    def __init__(self) -> None:
        super().__init__(499, "the client closed its connection")


class OutOfTime(ServingError):
    """504: the request's budget was spent before its forward began or ended."""

    reason = "timeout"

    def __init__(self, budget: float) -> None:
        super().__init__(504, f"not answered within the request's budget of {budget:g} s")


class BadUpstream(ServingError):
    """502: the server that runs the model (UPSTREAM) can't be reached, or answers nonsense."""

    reason = "upstream"

    def __init__(self, message: str) -> None:
        super().__init__(502, message)


class UpstreamBusy(ServingError):
    """503: the server that runs the model (UPSTREAM) takes no more requests for now."""

    reason = "upstream"

    def __init__(self, message: str) -> None:
        super().__init__(503, message, retry_after=1)


class TooLarge(ServingError):
    """413: the body is over the limit; it is refused before it is read."""

    reason = "too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is over the limit of {limit} bytes (PAYLOAD_LIMIT)")
