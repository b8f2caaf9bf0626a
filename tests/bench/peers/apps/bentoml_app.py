"""A service on BentoML, with its batching."""

import bentoml
import numpy as np
from network import Network, of_image
from PIL.Image import Image


@bentoml.service(workers=1, traffic={"timeout": 60})
class Bench:
    def __init__(self) -> None:
        self._network = Network()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10000)
    def predict(self, array: np.ndarray) -> np.ndarray:
        return self._network(array.astype(np.float32))

    @bentoml.api
    def image(self, image: Image) -> np.ndarray:
        return self._network(of_image(image))
