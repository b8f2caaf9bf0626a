"""What a registry is told of who asks. The files are read for each request: a replaced Secret counts at once, also when
the kubelet swaps the folder under them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelramp.ports import RegistryError


@dataclass(frozen=True)
class Credentials:
    """Files of one registry: a token, or user and password, or none; and the authorities that its TLS is signed by."""

    token_file: Path | None = None
    username_file: Path | None = None
    password_file: Path | None = None
    ca_file: Path | None = None

    def read(self) -> dict[str, Any]:
        """Fields of MLflow's MlflowHostCreds; empty without files. What the environment says of a login is then for
        the other registries. Raises RegistryError."""
        fields: dict[str, Any] = {}
        if self.token_file or self.username_file or self.password_file:
            fields = {
                "token": _content("token", self.token_file),
                "username": _content("user name", self.username_file),
                "password": _content("password", self.password_file),
                "auth": None,
                "aws_sigv4": False,
            }
        if self.ca_file:
            _content("CA bundle", self.ca_file)
            fields |= {"server_cert_path": str(self.ca_file), "ignore_tls_verification": False}
        return fields


def _content(what: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        content = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise RegistryError(f"cannot read the {what} in {path}: {reason}; see the Secret that is mounted") from error
    if not content:
        raise RegistryError(f"the {what} in {path} is empty; see the Secret that is mounted")
    return content
