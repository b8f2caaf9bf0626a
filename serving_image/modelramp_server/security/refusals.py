"""The errors of a client that is not let in."""

from modelramp_server.protocol.errors import ServingError


class Unauthenticated(ServingError):
    """401: no credentials, or none that hold."""

    reason = "unauthenticated"

    def __init__(self, message: str) -> None:
        super().__init__(401, message)


class RateLimited(ServingError):
    """429: more requests than the caller may send."""

    reason = "rate_limited"

    def __init__(self, rate: float, retry_after: int) -> None:
        super().__init__(429, f"over the rate of {rate:g} requests a second; try again", retry_after=retry_after)


class CannotTell(ServingError):
    """503: the keys that would verify the token are out of reach. Not the client's fault."""

    reason = "no_token_keys"

    def __init__(self) -> None:
        super().__init__(503, "tokens can't be verified now: their issuer's keys are out of reach", retry_after=5)
