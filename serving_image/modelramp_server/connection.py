"""One client's connection: uvicorn's, whose inference requests take the hot path, with an end to what a request may
make the server hold, word of a client that has gone, and JSON for broken HTTP."""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelramp_server.batching.jobs import LEFT
from modelramp_server.exchange import WHOLE, Answer, Body
from modelramp_server.hot_path import Exchange, HotPath
from modelramp_server.large_body import LARGE, LargeBodies
from modelramp_server.one_write import OneWrite, response_head, write_together

HEAD_LIMIT = 64 * 1024
_END_OF_HEAD = b"\r\n\r\n"
_REMEMBERED = 4096  # bytes of a head


class Connection(HttpToolsProtocol):
    """One client. What a request may make the server hold is bounded: its head here, its body by who reads it.

    `idle_since` is when the last answer was sent, by the loop's clock; None while the client asks or has not asked.
    """

    cycle: Any  # uvicorn's exchange, or the hot path's
    idle_since: float | None = None
    _receiving: tuple[object, bool] | None = None
    _received = 0
    _whole: Exchange | None = None
    _between = True  # requests, by what the parser has seen
    _head = b""  # of the hot path's last exchange, where it may be repeated

    def __init__(self, *arguments: Any, request_limit: int, hot_path: HotPath | None, **named: Any) -> None:
        """`request_limit`: bytes of a request at most, with whatever it says around its body."""
        super().__init__(*arguments, **named)
        self._request_limit = request_limit
        self._hot_path = hot_path

    def data_received(self, data: bytes) -> None:
        """Called by the transport. What may be much of a large body does not go through the parser."""
        self.idle_since = None
        if self._head and data.startswith(self._head) and self._is_repeated(data):
            return
        begins, self._head = self._between, b""
        size = data.find(_END_OF_HEAD) + len(_END_OF_HEAD) if len(data) >= LARGE and self._in_head() else 0
        if size > len(_END_OF_HEAD):
            self._feed(data[:size])
            if self.transport.is_closing() or self._is_large_body(memoryview(data)[size:], data[:size], begins):
                return
            data, begins = data[size:], False
        self._feed(data)
        if self._whole is not None:
            exchange, self._whole = self._whole, None
            if begins and self._between and len(head := _head_of(data)) == len(data) - exchange.length:
                self._head = head
            exchange.begin()
        elif not self._is_large_body(b"", data, begins):
            cycle = self.cycle
            if cycle is None or cycle.response_complete or cycle.more_body:
                self._count(len(data))

    def _is_repeated(self, data: bytes) -> bool:
        """Whether this is all of a request whose head is the last one's, byte for byte, which has been read then."""
        if len(data) - len(self._head) != self.cycle.length or not self.begins_again():
            return False
        exchange: Exchange = self.cycle
        exchange.more_body = False
        exchange.begin(data[len(self._head) :])
        return True

    def begins_again(self) -> bool:
        """See large_body.Reader. Where it can't be taken as the last one was, it is looked at like any other."""
        last: Exchange = self.cycle
        if not last.response_complete or self.flow.write_paused or (exchange := last.again()) is None:
            return False
        self.idle_since = None
        self.cycle = exchange
        return True

    def _feed(self, data: bytes) -> None:
        try:
            while data:
                data = self._parsed(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self._refuse(b"400 Bad Request", b"the bytes received are no valid HTTP request")

    def _parsed(self, data: bytes) -> bytes:
        """Feed the parser, and say what it is to be fed next. It ends a request to upgrade with its head; nobody is
        upgraded here (RFC 9110, 7.8), so it reads that head again without the wish, and then the body."""
        parser = self.parser
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            if parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("this is no proxy") from None
            first = b"%b %b HTTP/%b" % (parser.get_method(), self.url, parser.get_http_version().encode())
            lines = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self._begin_parsing()
            return b"\r\n".join([first, *lines]) + _END_OF_HEAD + data[wish.args[0] :]
        return b""

    def _begin_parsing(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def _is_large_body(self, more: Body, data: bytes, begins: bool) -> bool:
        """Whether much of a request's body is still to come, after this; it is read elsewhere then, and so are those of
        requests that follow with the same head: the one of `data`, if that `begins` the request."""
        exchange = self.cycle
        if type(exchange) is not Exchange or self.scheme != "http" or exchange.left() - len(more) < LARGE:
            return False
        begun, raw_from = (*exchange.parts, more), exchange.request.header_length
        head = _head_of(data) if begins else b""
        if len(data) - len(head) != sum(map(len, exchange.parts)):  # the parser found another end of it
            head = b""
        self.transport.set_protocol(LargeBodies(self, exchange.length, raw_from, begun, head))
        return True

    def on_message_begin(self) -> None:
        """Called by the parser. A scope is made for ASGI only."""
        self._between = False
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Called by the parser. The exchange that uvicorn makes has not begun yet."""
        if self.parser.should_upgrade():  # see _parsed
            return
        exchange = self._hot()
        if exchange is not None:
            self.cycle = exchange
            return
        url, headers, expected = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expected
        self.headers += headers
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.__class__ = OneWrite

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if type(self.cycle) is Exchange:
            self.cycle.parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self.parser.should_upgrade():
            return
        self._between = True
        if type(self.cycle) is Exchange:
            self.cycle.more_body = False
            self._whole = self.cycle
            return
        self.cycle.more_body = False  # uvicorn leaves it where the answer is complete
        super().on_message_complete()
        self.scope["state"][WHOLE] = True

    def large_body_whole(self, body: Body) -> None:
        """See large_body.Reader. Of a body whose head it has seen the parser does not see the end; another one begins
        with the next request."""
        if not self._between:
            self._begin_parsing()
            self._between = True
        exchange: Exchange = self.cycle
        exchange.more_body = False
        exchange.begin(body)

    def goes_on(self, data: bytes = b"") -> None:
        """See large_body.Reader."""
        self.transport.set_protocol(self)
        if data:
            self.data_received(data)

    def on_response_complete(self) -> None:
        """Called at the end of an exchange. Whether a client has been idle for long is looked at now and then
        (http_server.py): a timer for each answer costs more than that."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.idle_since = self.loop.time()

    def respond(self, exchange: Exchange, answer: Answer) -> None:
        """See hot_path.Client."""
        assert self._hot_path is not None
        transport, body = self.transport, answer.body
        if transport.is_closing():
            return
        exchange.response_started = True
        keep_alive = exchange.keep_alive and not self._hot_path.closing()
        headers = [*self.server_state.default_headers, *answer.headers, (b"content-length", b"%d" % len(body))]
        head = response_head(answer.status, headers, keep_alive)
        write_together(transport, head, body)
        if not keep_alive:
            transport.close()
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport. Nothing need be computed for the request under way."""
        if type(self.cycle) is Exchange:
            self.cycle.abandon()
        elif self.scope is not None:
            self.scope["state"][LEFT] = True
        super().connection_lost(exc)

    def waits_for(self) -> tuple[str, object] | None:
        """What the client owes (slow_clients.py): to take its answer, or a request's head or body."""
        if self.transport.get_write_buffer_size():
            return "answer", self.cycle
        if self._in_head():
            return ("head", self.cycle) if self.idle_since is None else None
        if type(self.cycle) is Exchange and self.cycle.more_body:
            return "body", self.cycle
        return None

    def give_up(self) -> None:
        """Tell a client that never ended its request; end the connection of one that does not read."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        elif type(self.cycle) is Exchange and self.cycle.more_body and not self._in_head():
            self.cycle.give_up()
        elif self._received and self._in_head():
            self._refuse(b"408 Request Timeout", b"the head of the request did not arrive in time")
        else:
            self.transport.abort()

    def _hot(self) -> Exchange | None:
        """The exchange of a request whose head has come, where the hot path takes it."""
        cycle, parser = self.cycle, self.parser
        if (
            self._hot_path is None
            or (cycle is not None and not cycle.response_complete)
            or self.expect_100_continue
            or self.flow.write_paused
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
        ):
            return None
        return self._hot_path.take(self, self.url, self.headers)

    def _in_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _count(self, size: int) -> None:
        """Bytes of a request that has not all come: of its head, then of its body, even where nobody reads that."""
        cycle = self.cycle
        head = cycle is None or (cycle.response_complete and not cycle.more_body)
        if self._receiving != (cycle, head):
            self._receiving, self._received = (cycle, head), 0
        self._received += size
        if head and self._received > HEAD_LIMIT:
            self._refuse(b"431 Request Header Fields Too Large", b"the head of the request is over 64 KiB")
        elif self._received > self._request_limit and not self._is_refused():
            self.transport.abort()

    def _is_refused(self) -> bool:
        """Whether what comes is thrown away, for a moment (exchange.refuse)."""
        return self.cycle.response_started and not self.cycle.response_complete

    def _refuse(self, status: bytes, error: bytes) -> None:
        body = b'{"error": "%b"}' % error
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (status, len(body), body)
        )
        self.transport.close()


def _head_of(begun: bytes) -> bytes:
    """The head that these bytes begin with; nothing where it is not all there, or too long to remember."""
    size = begun.find(_END_OF_HEAD) + len(_END_OF_HEAD)
    return begun[:size] if len(_END_OF_HEAD) < size <= _REMEMBERED else b""
