"""Dealing requests to two sides by weight, exactly, without dice (after Bresenham's line algorithm).

Over any 100 consecutive requests at one weight, exactly `weight` go to the candidate. The start depends on the salt
and on the pod, so that replicas don't send their shares in step.
"""

from hashlib import blake2b

_WHOLE = 100


class Accumulator:
    """Adds the weight for every request; each time it passes 100, one request is the candidate's."""

    def __init__(self, salt: str, pod: str) -> None:
        digest = blake2b(f"{salt}/{pod}".encode(), digest_size=8).digest()
        self._level = int.from_bytes(digest, "big") % _WHOLE

    def deal(self, weight: int) -> bool:
        """Whether the next request goes to the candidate.

        Args:
            weight: 0 to 100 percent; it may change between calls.
        """
        self._level += weight
        if self._level < _WHOLE:
            return False
        self._level -= _WHOLE
        return True
