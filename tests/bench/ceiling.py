"""What Python can do here at best: no routes, no model; JSON is read, and a constant is written as JSON."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

Message = MutableMapping[str, Any]

_CONSTANT = {
    "model_name": "digits",
    "model_version": "1",
    "outputs": [{"name": "digit", "datatype": "INT64", "shape": [1], "data": [7]}],
}


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer any request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    orjson.loads(body)
    answer = orjson.dumps(_CONSTANT)
    length = str(len(answer)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
