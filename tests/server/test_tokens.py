"""JSON Web Tokens: only those of the issuer, for us, in time, signed by its key; and an issuer that is away."""

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from modelramp_server.security import jwks
from modelramp_server.security.api_keys import entry, new_key
from modelramp_server.security.jwks import LONGEST_KEPT, SOONEST, JwksUrl
from modelramp_server.security.refusals import CannotTell
from tests.server.loopback import Loopback
from tests.server.served import Served, eventually

INFER = "/v2/models/digits/infer"
TWO = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [2]}]}
AUDIENCE, ISSUER = "models", "https://issuer.example"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC, STRANGER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
CLAIMS: dict[str, Any] = {"sub": "alice", "aud": AUDIENCE, "iss": ISSUER}
NAMED = {"jwt_audience": AUDIENCE, "jwt_issuer": ISSUER}


def key_set(**keys: Any) -> str:
    """A JWKS of public keys by id."""
    listed = []
    for name, key in keys.items():
        algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
        listed.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig"})
    return json.dumps({"keys": listed})


def token(key: Any = EC, algorithm: str = "ES256", kid: str | None = "ec", age: float = 0, **changes: Any) -> str:
    claims = {**CLAIMS, "exp": time.time() - age + 60, **changes}
    headers = {"kid": kid} if kid else {}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm, headers)


def hand_made(header: dict[str, Any], signature: str = "") -> str:
    def part(document: dict[str, Any]) -> str:
        return jwt.utils.base64url_encode(json.dumps(document).encode()).decode()

    return f"{part(header)}.{part({**CLAIMS, 'exp': time.time() + 60})}.{signature}"


def signed_by_the_public_key() -> str:
    """The classical confusion: HMAC with the issuer's public key for a secret."""
    unsigned = hand_made({"alg": "HS256", "kid": "rsa", "typ": "JWT"})[:-1]
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{unsigned}.{jwt.utils.base64url_encode(algorithm.sign(unsigned.encode(), PEM)).decode()}"


def infer(server: Served, shown: str) -> Any:
    return server.call("POST", INFER, TWO, {"Authorization": f"Bearer {shown}"})


@pytest.fixture(scope="module")
def guarded(lookup_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    file = tmp_path_factory.mktemp("jwks") / "jwks.json"
    file.write_text(key_set(ec=EC, rsa=RSA))
    server = Served(lookup_model, jwt_jwks=str(file), **NAMED).wait_ready()
    yield server
    server.stop()


@pytest.mark.parametrize(
    "shown",
    [
        lambda: token(),
        lambda: token(RSA, "RS256", "rsa"),
        lambda: token(aud=["others", AUDIENCE]),
        lambda: token(age=65),  # clocks differ by a little
    ],
)
def test_a_token_that_holds_lets_in(guarded: Served, shown: Callable[[], str]) -> None:
    assert infer(guarded, shown()).status == 200


@pytest.mark.parametrize(
    ("shown", "part"),
    [
        (lambda: token(age=80), "expired"),
        (lambda: token(nbf=time.time() + 3600), "not yet valid"),
        (lambda: token(exp=None), "exp"),
        (lambda: token(aud="others"), "udience"),
        (lambda: token(aud=None), "aud"),
        (lambda: token(iss="https://other.example"), "ssuer"),
        (lambda: token(iss=None), "iss"),
        (lambda: token(sub=None), "sub"),
        (lambda: token(sub=7), "ubject"),
        (lambda: token(STRANGER), "ignature"),
        (lambda: token(kid="unknown"), "does not list"),
        (lambda: token(kid=None), "does not list"),
        (lambda: token(EC, "ES256", "rsa"), "does not hold"),
        (lambda: token(RSA, "PS256", "rsa"), "algorithm"),
        (lambda: token(ec.generate_private_key(ec.SECP384R1()), "ES384", "ec"), "algorithm"),
        (lambda: token()[:-4] + "AAAA", "ignature"),
        (lambda: hand_made({"alg": "none", "kid": "ec"}), "algorithm"),
        (lambda: hand_made({"alg": ["ES256"], "kid": "ec"}), "algorithm"),
        (lambda: hand_made({"alg": "ES256", "kid": 7}), "does not hold"),
        (lambda: hand_made({"kid": "ec"}), "algorithm"),
        (lambda: signed_by_the_public_key(), "algorithm"),
        (lambda: "a.b.c", "does not hold"),
        (lambda: "..", "does not hold"),
        (lambda: jwt.utils.base64url_encode(b'{"alg":' + b"[" * 20_000).decode() + ".b.c", "does not hold"),
        (lambda: f"{token()}.x", "not known"),
        (lambda: "\xe4.\xf6.\xfc", "does not hold"),
    ],
)
def test_no_other_does(guarded: Served, shown: Callable[[], str], part: str) -> None:
    reply = infer(guarded, shown())
    assert reply.status == 401 and part in reply.json["error"], reply.body
    assert reply.headers["www-authenticate"].startswith("Bearer")


def test_who_asks_is_the_subject(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    (tmp_path / "jwks").write_text(key_set(ec=EC))
    (tmp_path / "keys").write_text(entry("alice", key := new_key()))
    audit = tmp_path / "audit"
    files = {"jwt_jwks": str(tmp_path / "jwks"), "api_keys_file": tmp_path / "keys", "audit_log": str(audit)}
    server = start(lookup_model, rate_limit=0.01, rate_burst=1, **files, **NAMED)
    assert infer(server, token(kid=None)).status == 200, "the only key need not be named"
    assert infer(server, key).status == 200, "a key named like a token's subject is another caller"
    assert infer(server, token(sub="eve\n{}")).status == 200
    assert infer(server, token()).status == 429
    eventually(lambda: audit.read_text().count("\n") == 3)
    assert [json.loads(line)["caller"] for line in audit.read_text().splitlines()] == [
        "jwt:alice",
        "alice",
        "jwt:eve?{}",
    ]


def test_the_file_of_keys_may_change(start: Any, lookup_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "jwks"
    file.write_text(key_set(ec=EC))
    server = start(lookup_model, jwt_jwks=str(file), **NAMED)
    newer = token(STRANGER, kid="new")
    assert infer(server, newer).status == 401
    scratch = tmp_path / "jwks.new"
    scratch.write_text(key_set(ec=EC, new=STRANGER))
    scratch.replace(file)
    eventually(lambda: infer(server, newer).status == 200)
    file.write_text("{")
    server.service._front._watches[0].__self__.poll()
    assert infer(server, newer).status == 200


class Issuer(Loopback):
    """An issuer's URL on loopback."""

    def __init__(self) -> None:
        self.status, self.body, self.asked = 200, key_set(ec=EC), 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                self.send_response(issuer.status)
                self.send_header("content-length", str(len(issuer.body)))
                self.end_headers()
                self.wfile.write(issuer.body.encode())

        super().__init__(Handler)
        self.url += "/keys"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.stop()


def test_an_issuer_that_goes_away_is_not_missed(start: Any, lookup_model: Path, issuer: Issuer) -> None:
    server = start(lookup_model, jwt_jwks=issuer.url, **NAMED)
    eventually(lambda: infer(server, token()).status == 200)
    issuer.status = 500
    for _ in range(5):
        assert infer(server, token()).status == 200
        assert infer(server, token(kid="unknown")).status == 401
    assert issuer.asked <= 2, "key ids that clients make up do not make us ask"


def test_an_issuer_that_never_answered_is_nobodys_mistake(start: Any, lookup_model: Path, issuer: Issuer) -> None:
    issuer.status = 500
    server = start(lookup_model, jwt_jwks=issuer.url, **NAMED)
    reply = infer(server, token())
    assert reply.status == 503 and reply.headers["retry-after"] == "5" and "out of reach" in reply.json["error"]
    assert server.metric("modelramp_rejects_total", reason="no_token_keys") == 1


async def test_keys_are_kept_for_a_day_and_no_longer(issuer: Issuer) -> None:
    now = [0.0]
    keys = JwksUrl(issuer.url, lambda: now[0])
    assert await keys.find("ec") is not None
    issuer.status = 500
    now[0] = LONGEST_KEPT
    assert await keys.find("ec") is not None
    now[0] += 1
    with pytest.raises(CannotTell):
        await keys.find("ec")


async def test_a_new_key_is_fetched_when_a_token_names_it_and_not_too_often(issuer: Issuer) -> None:
    now = [0.0]
    keys = JwksUrl(issuer.url, lambda: now[0])
    assert await keys.find("new") is None
    issuer.body = key_set(ec=EC, new=STRANGER)
    now[0] = SOONEST - 1
    assert await keys.find("new") is None and issuer.asked == 1
    now[0] = SOONEST
    assert await keys.find("new") is not None and issuer.asked == 2
    for body in ("[]", "{}", '{"keys": []}', '{"keys": [7]}', "[" * 100_000, "x" * (jwks.LARGEST + 1)):
        issuer.body = body
        now[0] += SOONEST
        assert await keys.find("other") is None
    assert issuer.asked == 8 and await keys.find("new") is not None, "what is no key set changes nothing"


def test_symmetric_keys_are_none() -> None:
    secret = {"kty": "oct", "k": "AAAA", "kid": "s", "alg": "HS256"}
    with pytest.raises(ValueError, match="public keys"):
        jwks.parse(json.dumps({"keys": [secret]}))
    both = json.loads(key_set(ec=EC))["keys"] + [secret]
    assert set(jwks.parse(json.dumps({"keys": both}))) == {"ec", None}
    many = {"keys": [{**both[0], "kid": str(number)} for number in range(jwks.MOST_KEYS + 1)]}
    with pytest.raises(ValueError, match="at most"):
        jwks.parse(json.dumps(many))
