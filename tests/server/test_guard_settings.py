"""Settings of the guard, the records and TLS that can not work: each says which, and what would do. And TLS itself."""

import datetime
import http.client
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from modelramp_server.front_door import FrontDoor
from modelramp_server.observability.metrics import Metrics
from modelramp_server.settings import InvalidSettings, ServeSettings
from tests.server.served import Served, eventually, exchange
from tests.server.test_lifecycle import run


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key; written over what is there."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "tls.crt", folder / "tls.key"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, secret


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    chain, key = certificate(tmp_path, "one")
    (tmp_path / "other").mkdir()
    other, _ = certificate(tmp_path / "other", "two")
    (tmp_path / "bad-keys").write_text("alice:secret\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "no-set").write_text("{}")
    (tmp_path / "no-keys").write_text("")
    locked, private = tmp_path / "locked", load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    return {"dir": str(tmp_path), "chain": str(chain), "key": str(key), "other": str(other), "locked": str(locked)}


TOKENS = {"jwt_jwks": "https://issuer.example/keys", "jwt_audience": "a", "jwt_issuer": "i"}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"rate_limit": 5}, ["RATE_LIMIT", "API_KEYS_FILE", "JWT_JWKS"]),
        ({"auth_open": "metrics"}, ["AUTH_OPEN", "API_KEYS_FILE", "JWT_JWKS"]),
        ({"jwt_audience": "me"}, ["JWT_AUDIENCE", "JWT_JWKS"]),
        ({"api_keys_file": "{dir}/no-keys", "jwt_issuer": "them"}, ["JWT_ISSUER", "JWT_JWKS"]),
        ({"api_keys_file": "{dir}/none"}, ["API_KEYS_FILE", "none"]),
        ({"api_keys_file": "{dir}/bad-keys"}, ["API_KEYS_FILE", "line 1", "hash-key"]),
        ({"api_keys_file": "{dir}/bytes"}, ["API_KEYS_FILE", "no text"]),
        ({"api_keys_file": "{dir}/no-keys", "auth_open": "metric"}, ["AUTH_OPEN", "'metric'", "metrics, metadata"]),
        ({**TOKENS, "jwt_audience": ""}, ["JWT_AUDIENCE"]),
        ({**TOKENS, "jwt_issuer": ""}, ["JWT_ISSUER"]),
        ({**TOKENS, "jwt_algorithms": "HS256"}, ["JWT_ALGORITHMS", "'HS256'", "ES256"]),
        ({**TOKENS, "jwt_algorithms": "none,RS256"}, ["JWT_ALGORITHMS", "'none'"]),
        ({**TOKENS, "jwt_algorithms": ""}, ["JWT_ALGORITHMS"]),
        ({**TOKENS, "jwt_jwks": "http://issuer.example/keys"}, ["JWT_JWKS", "https"]),
        ({**TOKENS, "jwt_jwks": "{dir}/none"}, ["JWT_JWKS", "none"]),
        ({**TOKENS, "jwt_jwks": "{dir}/no-set"}, ["JWT_JWKS", "no JWKS"]),
        ({"tls_cert_file": "{chain}"}, ["TLS_CERT_FILE", "TLS_KEY_FILE", "both"]),
        ({"tls_cert_file": "{other}", "tls_key_file": "{key}"}, ["TLS_CERT_FILE", "mismatch"]),
        ({"tls_cert_file": "{dir}/none", "tls_key_file": "{key}"}, ["TLS_CERT_FILE", "none"]),
        ({"tls_cert_file": "{chain}", "tls_key_file": "{locked}"}, ["TLS_KEY_FILE", "without a passphrase"]),
        ({"audit_log": "{dir}/no/such/folder"}, ["AUDIT_LOG", "no/such"]),
        ({"payload_log": "{dir}"}, ["PAYLOAD_LOG"]),
    ],
)
def test_what_can_not_work_is_said_at_the_start(
    files: dict[str, str], settings: dict[str, Any], parts: list[str]
) -> None:
    filled = {name: value.format(**files) if isinstance(value, str) else value for name, value in settings.items()}
    with pytest.raises(InvalidSettings) as caught:
        FrontDoor(ServeSettings(model_path="m", **filled), "m", Metrics("m", "1", "r"))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_the_process_ends_with_the_sentence(lookup_model: Path) -> None:
    done = run("serve", "--model", str(lookup_model), "--port", "0", RATE_LIMIT="5")
    assert done.returncode == 2
    assert "RATE_LIMIT is a rate for each caller" in done.stderr and "Traceback" not in done.stderr


def presented(server: Served) -> str:
    """The name in the certificate that a new connection gets."""
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusting())
    try:
        assert exchange(connection, "GET", "/v2/health/ready", None).status == 200
        shown = connection.sock.getpeercert(binary_form=True)
    finally:
        connection.close()
    return str(x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_tls_and_a_certificate_that_is_renewed(lookup_model: Path, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "first")
    server = Served(lookup_model, tls_cert_file=chain, tls_key_file=key)
    try:
        eventually(lambda: server.service.local.model is not None)
        assert presented(server) == "first"
        kept = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusting())
        assert exchange(kept, "GET", "/v2/health/live", None).status == 200
        good, renewed = (chain.read_bytes(), key.read_bytes()), tmp_path / "renewed"
        renewed.mkdir()
        certificate(renewed, "second")
        chain.write_bytes((renewed / "tls.crt").read_bytes())
        server.service._front.certificate.reloader(lambda: server.service.server.config.ssl)()
        assert presented(server) == "first", "the new one's key is not there yet"
        key.write_bytes((renewed / "tls.key").read_bytes())
        eventually(lambda: presented(server) == "second")
        assert exchange(kept, "GET", "/v2/health/live", None).status == 200, "connections that are open go on"
        kept.close()
        key.write_bytes(good[1])
        server.service._front.certificate.reloader(lambda: server.service.server.config.ssl)()
        assert presented(server) == "second", "a key that does not fit changes nothing"
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            server.call("GET", "/v2/health/live")
    finally:
        server.stop()


def test_grpc_is_not_served_in_the_clear_beside_tls(lookup_model: Path, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "one")
    with pytest.raises(InvalidSettings, match="beside TLS_CERT_FILE"):
        Served(lookup_model, tls_cert_file=chain, tls_key_file=key, grpc_port=0)
