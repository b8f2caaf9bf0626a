"""Log lines on stderr: time, level, where, what."""

import logging


def configure(level: str) -> None:
    """Set up logging for the process."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
