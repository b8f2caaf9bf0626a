"""The API keys in force: read at the start, and again whenever the file changes."""

import logging
from pathlib import Path

from modelramp_server.security.api_keys import ApiKeys, BadKeys, parse
from modelramp_server.settings import InvalidSettings

log = logging.getLogger(__name__)


class KeyFile:
    """A file that turns bad changes nothing: locking every client out would be worse than a key too many."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidSettings: it can't be read, or a line is no entry."""
        self.path = path
        try:
            self.keys = self._read()
        except (OSError, ValueError) as error:
            raise InvalidSettings(f"API_KEYS_FILE ({path}): {error}") from None

    def reload(self) -> None:
        """Read it again."""
        try:
            self.keys = self._read()
        except (OSError, ValueError) as error:
            log.error("API_KEYS_FILE (%s) can't be used, the former keys stay: %s", self.path, error)
        else:
            log.info("API_KEYS_FILE: %d keys", len(self.keys.entries))

    def _read(self) -> ApiKeys:
        try:
            keys = parse(self.path.read_text())
        except UnicodeDecodeError:
            raise BadKeys("it is no text") from None
        if not keys.entries:
            log.warning("API_KEYS_FILE (%s) holds no keys: nobody is let in by one", self.path)
        return keys
