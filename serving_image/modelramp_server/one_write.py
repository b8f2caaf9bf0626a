"""uvicorn's exchange, with a response's head kept until its body is there, so that both leave at once.

uvicorn writes them one after the other, and uvloop sends what it is given at once: two system calls and two packets
for an answer of two hundred bytes cost more than to read the request.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from modelramp_server.exchange import CLOSE, Body, Header

COPIED = 64 * 1024  # bytes of a body up to which it is cheaper to put it behind its head


class OneWrite(RequestResponseCycle):
    """One request and its response. Responses without a content-length, and those to HEAD, are left to uvicorn."""

    _head = b""

    async def send(self, message: Any) -> None:
        """Called by the application."""
        if self.transport.is_closing():  # uvicorn tells its newest exchange only
            self.disconnected = True
        if self._head:
            head, self._head = self._head, b""
            body = message.get("body", b"")
            if len(body) > COPIED:
                self.transport.write(head)
            else:
                self.expected_content_length += len(head)
                message = {**message, "body": head + body}
        elif not self.response_started and self.scope["method"] != "HEAD" and (head := self._head_of(message)):
            self._head = head
            self.response_started = True
            self.waiting_for_100_continue = False
            return
        await super().send(message)

    def _head_of(self, message: Any) -> bytes:
        """The head as it is sent; nothing where it tells no length."""
        headers: list[Header] = message["headers"]
        length = next((value for name, value in headers if name == b"content-length"), b"")
        if not length:
            return b""
        self.keep_alive = self.keep_alive and CLOSE not in headers
        head = response_head(message["status"], [*self.default_headers, *headers], self.keep_alive)
        self.expected_content_length = int(length)
        self.chunked_encoding = False
        return head


def write_together(transport: asyncio.Transport, head: bytes, body: Body) -> None:
    """Both in one system call, unless to copy the body would cost more."""
    if len(body) > COPIED:
        transport.write(head)
        transport.write(body)
    else:
        transport.write(b"".join((head, body)))


def response_head(status: int, headers: list[Header], keep_alive: bool) -> bytes:
    """A response's first bytes, up to its body.

    Raises:
        RuntimeError: a header has a line break in it, which would begin another response.
    """
    if not keep_alive and CLOSE not in headers:
        headers = [*headers, CLOSE]
    head = b"".join((STATUS_LINE[status], b"\r\n".join(map(b": ".join, headers)), b"\r\n\r\n"))
    if head.count(b"\n") != len(headers) + 2 or head.count(b"\r") != len(headers) + 2 or 0 in head:
        raise RuntimeError("a header of the answer has a line break in it")
    return head
