"""A predictor on KServe's Python server."""

import os

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from network import Network, of_jpeg


class Predictor(Model):
    def __init__(self):
        super().__init__("bench")
        self._network = Network()
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        tensor = payload.inputs[0]
        array = of_jpeg(tensor.data[0]) if tensor.datatype == "BYTES" else tensor.as_numpy()
        result = self._network(array.astype("float32", copy=False))
        output = InferOutput("output", list(result.shape), "FP32")
        output.set_data_from_numpy(result, binary_data=False)
        return InferResponse(response_id=payload.id or "1", model_name="bench", infer_outputs=[output])


if __name__ == "__main__":
    server = ModelServer(http_port=int(os.environ["BENCH_PORT"]), enable_grpc=False, enable_latency_logging=False)
    server.start([Predictor()])
