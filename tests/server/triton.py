"""A real Triton on loopback, of .venv-triton (hack/triton.sh), with one small model of the Python backend."""

import http.client
import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.server.served import eventually

ROOT = Path(__file__).parents[2] / ".venv-triton"
HOME = ROOT / "pytriton/tritonserver"
CONFIG = """
backend: "python"
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "gate" data_type: TYPE_STRING dims: [ 1 ] }
]
output [
  { name: "y" data_type: TYPE_FP32 dims: [ 4 ] },
  { name: "label" data_type: TYPE_INT64 dims: [ 1 ] },
  { name: "told" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "mates" data_type: TYPE_INT32 dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { }
"""
MODEL = """
import os, time
import numpy as np
import triton_python_backend_utils as backend

class TritonPythonModel:
    def execute(self, requests):
        return [self.one(request, len(requests)) for request in requests]

    def one(self, request, mates):
        x = backend.get_input_tensor_by_name(request, "x").as_numpy()
        gate = backend.get_input_tensor_by_name(request, "gate").as_numpy()
        if x.min() < 0:
            return backend.InferenceResponse(error=backend.TritonError("x is below 0"))
        path = gate.ravel()[0].decode()
        end = time.monotonic() + 20
        while path.startswith("/") and not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.01)
        rows = len(x)
        outputs = {
            "y": x * np.float32(FACTOR),
            "label": x.argmax(axis=1).astype(np.int64).reshape(rows, 1),
            "told": gate,
            "mates": np.full((rows, 1), mates, np.int32),
        }
        return backend.InferenceResponse([backend.Tensor(name, array) for name, array in outputs.items()])
"""


class Triton:
    """Serves `digits`: `y` is `x` times the factor, `label` where its largest value is, `told` the gate, `mates` how
    many requests shared the forward. A request whose gate is a path is answered when that file is there."""

    def __init__(self, folder: Path, factor: int) -> None:
        self._repository = folder / "models"
        model = self._repository / "digits"
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(CONFIG)
        (model / "1/model.py").write_text(f"FACTOR = {factor}\n{MODEL}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._memory = f"modelramp-triton-{self.port}-"
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Begin, without waiting; also on the same port again."""
        flags = ["--http-address=127.0.0.1", f"--http-port={self.port}", "--allow-grpc=false", "--allow-metrics=false"]
        flags += [f"--model-repository={self._repository}", f"--backend-directory={HOME / 'backends'}"]
        flags.append(f"--backend-config=python,shm-region-prefix-name={self._memory}")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(ROOT / "nvidia_pytriton.libs")}
        with (self._repository.parent / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [HOME / "bin/tritonserver", *flags], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self) -> "Triton":
        """Until its model is loaded."""
        eventually(lambda: self._ready() or self._popen.poll() is not None)
        assert self._popen.poll() is None, (self._repository.parent / "log").read_text()[-4000:]
        return self

    def kill(self) -> None:
        """SIGKILL to it and the processes of its models, as when a container ends: they may outlive it."""
        os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        for region in Path("/dev/shm").glob(f"{self._memory}*"):
            region.unlink()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
