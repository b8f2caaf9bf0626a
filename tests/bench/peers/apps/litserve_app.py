"""An API on LitServe, with its batching."""

import os

import litserve
import numpy as np
from network import Network, of_jpeg


class Api(litserve.LitAPI):
    def setup(self, device):
        self._network = Network()

    def decode_request(self, request):
        if "jpeg" in request:
            return of_jpeg(request["jpeg"])
        return np.asarray(request["array"], dtype=np.float32)

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, array):
        return self._network(array)

    def unbatch(self, output):
        return [output[row : row + 1] for row in range(len(output))]

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=64, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), generate_client_file=False, log_level="warning")
