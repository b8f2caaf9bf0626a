"""The keys that an issuer signs tokens with (RFC 7517), from a file or from its URL.

Those of a URL are fetched ahead of need and kept while it is down: an issuer that is away for an hour must not take
serving with it. They are kept a day at most, or a key withdrawn would hold for as long as somebody blocks the URL.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
from jwt import PyJWK, PyJWKSet, PyJWTError

from modelramp_server.security.refusals import CannotTell
from modelramp_server.settings import InvalidSettings

REFRESH = 300.0
LONGEST_KEPT = 24 * 3600.0
SOONEST = 10.0  # seconds between two fetches, whatever unknown key ids clients show
LARGEST = 1 << 20  # bytes
MOST_KEYS = 100
_PATIENCE = aiohttp.ClientTimeout(total=5)
_LOCAL = ("localhost", "127.0.0.1", "::1")

Keys = dict[str | None, PyJWK]

log = logging.getLogger(__name__)


class KeySource(Protocol):
    """Where a token's key comes from."""

    async def find(self, key_id: str | None) -> PyJWK | None:
        """The key, if there is one. Raises CannotTell: nobody knows now."""
        ...


def parse(text: str | bytes) -> Keys:
    """Public keys by id; None is the key of a set of one, which tokens need not name.

    Raises:
        ValueError: no key set, no usable public key in it, or too many.
    """
    try:
        document = json.loads(text)
        listed = document["keys"]
        public = [key for key in listed if key.get("kty") != "oct"]
        keys = PyJWKSet(public).keys
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PyJWTError) as error:
        raise ValueError(f"no JWKS with public keys: {error}") from None
    if len(keys) > MOST_KEYS:
        raise ValueError(f"{len(keys)} keys; {MOST_KEYS} at most")
    found: Keys = {key.key_id: key for key in keys}
    if len(keys) == 1:
        found[None] = keys[0]
    return found


class JwksFile:
    """Read at the start and when it changes; a file that turns bad changes nothing."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidSettings."""
        self.path = path
        try:
            self._keys = parse(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InvalidSettings(f"JWT_JWKS ({path}): {error}") from None

    def reload(self) -> None:
        """Read it again."""
        try:
            self._keys = parse(self.path.read_bytes())
        except (OSError, ValueError) as error:
            log.error("JWT_JWKS (%s) can't be used, the former keys stay: %s", self.path, error)

    async def find(self, key_id: str | None) -> PyJWK | None:
        """See KeySource."""
        return self._keys.get(key_id)


class JwksUrl:
    """Fetched at the start, every five minutes, and soon after a token names a key that is not known."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises InvalidSettings: plain http, but for this machine: whoever answers there could let anyone in."""
        if not url.startswith("https://") and urlsplit(url).hostname not in _LOCAL:
            raise InvalidSettings(f"JWT_JWKS is {url!r}: it must be https, or a file")
        self._url = url
        self._clock = clock
        self._keys: Keys = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._one_fetch = asyncio.Lock()

    async def watch(self) -> None:
        """Keep the keys fresh, for ever; sooner again after a failure."""
        while True:
            await self._refresh()
            await asyncio.sleep(REFRESH if self._fetched >= self._tried else SOONEST)

    async def find(self, key_id: str | None) -> PyJWK | None:
        """See KeySource."""
        if key_id not in self._keys:
            await self._refresh()
        if self._clock() - self._fetched > LONGEST_KEPT:
            raise CannotTell
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        async with self._one_fetch:
            if self._clock() - self._tried < SOONEST:
                return
            self._tried = self._clock()
            try:
                self._keys = parse(await self._fetch())
                self._fetched = self._clock()
            except (OSError, aiohttp.ClientError, ValueError) as error:
                log.error("JWT_JWKS (%s) is out of reach, the former keys stay: %s", self._url, error or "no answer")

    async def _fetch(self) -> bytes:
        async with (
            aiohttp.ClientSession(timeout=_PATIENCE, trust_env=True) as session,
            session.get(self._url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"it answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > LARGEST:
                    raise ValueError(f"more than {LARGEST} bytes")
            return bytes(body)
