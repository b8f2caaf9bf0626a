"""A runtime for MLServer: the one of its documentation's example of a custom runtime."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from network import Network, of_jpeg


class Runtime(MLModel):
    async def load(self) -> bool:
        self._network = Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        array = of_jpeg(tensor.data[0]) if tensor.datatype == "BYTES" else NumpyCodec.decode_input(tensor)
        output = NumpyCodec.encode_output("output", self._network(array.astype("float32", copy=False)))
        return InferenceResponse(model_name=self.name, outputs=[output])
