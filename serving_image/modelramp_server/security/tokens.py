"""JSON Web Tokens (RFC 7519): signed by the issuer's key, by an algorithm of ours, for this audience, in time."""

from collections.abc import Sequence

import jwt

from modelramp_server.security.jwks import KeySource
from modelramp_server.security.refusals import Unauthenticated
from modelramp_server.settings import InvalidSettings

LEEWAY = 10  # seconds that clocks may differ
LONGEST_NAME = 200
# Public-key algorithms only: with a symmetric one, whoever can verify a token can write one.
ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)  # fmt: skip
_REQUIRED = ["exp", "aud", "iss", "sub"]


class Tokens:
    """Says who a token speaks for: `jwt:` and its `sub`, so that it can't be taken for a key's name."""

    def __init__(self, keys: KeySource, audience: str, issuer: str, algorithms: Sequence[str]) -> None:
        """Raises InvalidSettings: without audience and issuer, tokens made for others would be taken."""
        if not audience or not issuer:
            raise InvalidSettings("JWT_JWKS needs JWT_AUDIENCE and JWT_ISSUER: whose tokens, made for whom")
        unknown = sorted(set(algorithms) - ALGORITHMS)
        if unknown or not algorithms:
            raise InvalidSettings(f"JWT_ALGORITHMS: {unknown} are none of {', '.join(sorted(ALGORITHMS))}")
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._algorithms = list(algorithms)

    async def owner(self, token: str) -> str:
        """Its subject.

        Raises:
            Unauthenticated: what does not hold about it.
            CannotTell: the keys are out of reach.
        """
        try:
            head = jwt.get_unverified_header(token)
            if head.get("alg") not in self._algorithms:
                raise Unauthenticated(f"the token's algorithm must be one of {', '.join(self._algorithms)}")
            key = await self._keys.find(head.get("kid"))
            if key is None:
                raise Unauthenticated("the token is signed by a key that its issuer does not list")
            claims = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": _REQUIRED},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token does not hold: {error}") from None
        return "jwt:" + _printable(claims["sub"])[:LONGEST_NAME]


def _printable(subject: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in subject)
