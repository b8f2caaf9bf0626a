"""TLS for uvicorn, with a certificate that may be renewed while the server runs."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from modelramp_server.settings import InvalidSettings

log = logging.getLogger(__name__)


class Certificate:
    """The files of a certificate chain and its key."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises InvalidSettings: they can't be used."""
        self.chain = chain
        self.key = key
        try:
            self._check()
        except OSError as error:
            raise InvalidSettings(f"TLS_CERT_FILE ({chain}) and TLS_KEY_FILE ({key}) can't be used: {error}") from None

    def reloader(self, context: Callable[[], ssl.SSLContext | None]) -> Callable[[], None]:
        """What to call when the files have changed: connections made from then on get the new certificate."""

        def reload() -> None:
            serving = context()
            if serving is None:
                return
            try:
                self._check()
                serving.load_cert_chain(self.chain, self.key)
            except OSError as error:
                log.error("TLS_CERT_FILE (%s) can't be used, the former certificate stays: %s", self.chain, error)
            else:
                log.info("TLS_CERT_FILE: the certificate has been replaced")

        return reload

    def _check(self) -> None:
        """On a context of its own: one that is handed a key of another certificate is left half changed."""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key, _no_passphrase)


def _no_passphrase() -> str:
    """Asked for, OpenSSL would read it from the terminal."""
    raise OSError("the key is encrypted; write it without a passphrase (openssl pkey -in KEY -out NEW)")
