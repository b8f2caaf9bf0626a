"""Bad requests leave nothing behind, however different they are. Run as a script for the full count: it starts a server
of its own, and says how much larger that is after 100,000 bad requests than after 10,000."""

import gzip
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tests.server import models
from tests.server.served import Served, eventually, exchange

MIB = 1024 * 1024
INFER = "/v2/models/digits/infer"
Request = tuple[str, str, Any, dict[str, str]]


def bad_requests() -> Iterator[Request]:
    """One after the other, no two alike: each carries 8 KiB of its own, wherever a server might keep them."""
    number = 0
    while True:
        number += 1
        own = f"{number:08}" * 1024
        tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
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


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_bad_requests_leave_nothing_behind(lookup_server: Served) -> None:
    requests = bad_requests()
    send(lookup_server.port, islice(requests, 700))
    before = resident()
    send(lookup_server.port, islice(requests, 2100))
    assert resident() - before < 3 * MIB


def main(first: int = 10_000, then: int = 90_000) -> None:
    """Print the growth in MiB."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = models.onnx_folder(Path(scratch) / "model", models.lookup())
        port = 18_080
        command = [sys.executable, "-m", "modelramp_server", "serve", "--model", str(folder), "--name", "digits"]
        server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"])
        try:
            eventually(lambda: _ready(port))
            requests = bad_requests()
            send(port, islice(requests, first))
            before = resident(server.pid)
            send(port, islice(requests, then))
            after = resident(server.pid)
        finally:
            server.terminate()
            server.wait()
    print(json.dumps({"after": [first, first + then], "MiB": [round(size / MIB, 2) for size in (before, after)]}))


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        return exchange(connection, "GET", "/v2/health/ready", None).status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
