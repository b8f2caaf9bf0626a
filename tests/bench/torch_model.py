"""The tiny network as PyTorch's program (pt2), of the ONNX graph's weights. Where torch is:
``.venv-torch/bin/python -m tests.bench.torch_model GRAPH FOLDER``."""

import logging
import sys
from pathlib import Path

import mlflow.pytorch
import numpy as np
import onnx
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from onnx import numpy_helper

from .models import INPUT


def network(graph: Path) -> torch.nn.Module:
    """Two layers, as in the file."""
    weights = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in onnx.load(graph).graph.initializer}
    layers = []
    for number in (1, 2):
        layer = torch.nn.Linear(*weights[f"w{number}"].shape)
        layer.load_state_dict({"weight": weights[f"w{number}"].T, "bias": weights[f"b{number}"]})
        layers.append(layer)
    return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1]).eval()


def main() -> None:
    graph, folder = map(Path, sys.argv[1:])
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    module, dtype = network(graph), np.dtype(np.float32)
    wide, narrow = module[0].in_features, module[2].out_features
    mlflow.pytorch.save_model(
        module,
        folder,
        signature=ModelSignature(
            Schema([TensorSpec(dtype, (-1, wide), INPUT)]), Schema([TensorSpec(dtype, (-1, narrow), "output")])
        ),
        input_example=np.zeros((2, wide), np.float32),
        pip_requirements=["torch"],
    )


if __name__ == "__main__":
    main()
