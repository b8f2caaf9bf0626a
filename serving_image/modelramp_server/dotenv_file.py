"""`.env` of the working folder: for one's own machine, and not read in a cluster."""

from pathlib import Path

from modelramp_server.settings import InvalidSettings, in_cluster


def read_dotenv(file: Path = Path(".env")) -> None:
    """Take what `.env` sets and the environment does not into the environment: MLflow's client reads it there too.

    Raises:
        InvalidSettings: it can't be read.
    """
    try:
        if not in_cluster() and file.is_file():
            from dotenv import load_dotenv

            load_dotenv(file)
    except OSError as error:
        raise InvalidSettings(f"{file.absolute()} can't be read: {error.strerror}") from None
    except ValueError:
        raise InvalidSettings(f"{file.absolute()} is no text in UTF-8; save it as that") from None
