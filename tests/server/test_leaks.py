"""Bad requests leave nothing behind, however different they are. The full count, 100,000: `tests.bench --parts bad`."""

import gzip
import http.client
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tests.bench.processes import resident_mib
from tests.server.served import eventually, exchange
from tests.server.test_lifecycle import Process

INFER = "/v2/models/digits/infer"
Request = tuple[str, str, Any, dict[str, str]]


TENSOR = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}


def bad_requests(tensor: dict[str, Any] = TENSOR) -> Iterator[Request]:
    """One after the other, no two alike: each carries 8 KiB of its own, wherever a server might keep them. `tensor` is
    what the model takes."""
    number = 0
    while True:
        number += 1
        own = f"{number:08}" * 1024
        yield "POST", INFER, {"inputs": [{**tensor, "name": own}]}, {}
        yield "POST", INFER, {"inputs": [{**tensor, "datatype": own}]}, {}
        yield "POST", INFER, {"inputs": [tensor], "outputs": [{"name": own}]}, {}
        yield "POST", INFER, own.encode(), {"accept-encoding": own}
        yield "POST", INFER, gzip.compress(own.encode())[:-9], {"content-encoding": "gzip"}
        yield "POST", INFER, b"{}", {"content-type": f"text/{own}"}
        yield "POST", INFER, b"{}", {"x-request-timeout": own}
        yield "POST", INFER, b"{}", {"x-request-id": own, "x-modelramp-relayed": own}
        yield "POST", "/invocations", {"dataframe_records": [{own: 1}]}, {}
        yield "POST", "/invocations", {"instances": [1], "params": {own: own}}, {}
        yield "POST", "/invocations", f"{own}\n{own}\n".encode(), {"content-type": "text/csv"}
        yield "POST", "/predict", own.encode(), {"content-type": f"image/{own}"}
        yield "POST", f"/predict?{own}", b"\xff\xd8\xff", {"accept": own}
        yield "POST", "/predict", own.encode(), {"content-type": f"multipart/form-data; boundary={own[:70]}"}
        yield "POST", "/predict", b"\x93NUMPY\x01\x00\x00\x04" + own[:1024].encode(), {}
        yield "GET", f"/{own}", None, {}
        yield "POST", f"/v2/models/{own}/infer", b"{}", {}
        yield "POST", f"/v2/repository/models/{own}/load", b"{}", {}


def send(port: int, requests: Iterator[Request]) -> None:
    """All of them on one connection; each gets a 4xx."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for method, path, body, headers in requests:
        reply = exchange(connection, method, path, body, headers)
        assert 400 <= reply.status < 500 and set(reply.json) == {"error"}, (path[:50], reply)
        if reply.headers.get("connection") == "close":
            connection.close()
    connection.close()


def test_bad_requests_leave_nothing_behind(lookup_model: Path) -> None:
    """In a process of its own: one that has run other tests grows by what these have left to be tidied up."""
    server = Process(lookup_model)
    try:
        eventually(lambda: server.ready() == 200)
        requests = bad_requests()
        send(server.port, islice(requests, 1400))
        before = resident_mib(server.popen.pid)
        send(server.port, islice(requests, 2100))
        assert resident_mib(server.popen.pid) - before < 3
    finally:
        server.popen.kill()
        server.popen.wait(10)
