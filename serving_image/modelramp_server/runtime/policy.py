"""The one policy on code in models: it runs only where ALLOW_CODE says so, and the refusal says what was found."""

from modelramp_server.runtime.base import UnsupportedModel


def refuse_code(found: str, remedy: str, allow_code: bool) -> None:
    """Stop unless code is allowed.

    Raises:
        UnsupportedModel: what was found, the remedy, and how to allow it.
    """
    if not allow_code:
        raise UnsupportedModel(
            f"{found}, which runs code when it is loaded; {remedy}, or allow it with ALLOW_CODE=true"
        )
