"""uvicorn's exchange, with a response's head kept until its body is there, so that both leave at once.

uvicorn writes them one after the other, and uvloop sends what it is given at once: two system calls and two packets
for an answer of two hundred bytes cost more than to read the request.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_COPIED = 64 * 1024  # bytes of a body up to which it is cheaper to put it behind its head


class OneWrite(RequestResponseCycle):
    """One request and its response. Responses without a content-length, and those to HEAD, are left to uvicorn."""

    _head = b""

    async def send(self, message: Any) -> None:
        """Called by the application."""
        if self._head:
            head, self._head = self._head, b""
            body = message.get("body", b"")
            if len(body) > _COPIED:
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
        headers = [*self.default_headers, *message["headers"]]
        length, parts = b"", [STATUS_LINE[message["status"]]]
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
            parts += (name, b": ", value, b"\r\n")
        if not length:
            return b""
        if not self.keep_alive and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        if head.count(b"\n") != len(headers) + 2 or head.count(b"\r") != len(headers) + 2 or b"\0" in head:
            raise RuntimeError("a header of the answer has a line break in it")
        self.expected_content_length = int(length)
        self.chunked_encoding = False
        return head
