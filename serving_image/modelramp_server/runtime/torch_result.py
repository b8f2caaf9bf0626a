"""What a torch module answered, as named arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modelramp_server.protocol.tensors import Array


def arrays(result: Any, names: Sequence[str]) -> dict[str, Array]:
    """A tensor, a list of tensors, or tensors by name.

    Args:
        result: of the forward.
        names: of the signature's outputs; used if there are as many as tensors, and they are not empty.
    """
    if isinstance(result, Mapping):
        return {str(name): _array(value) for name, value in result.items()}
    values = result if isinstance(result, tuple | list) else [result]
    if len(names) != len(values) or not all(names):
        names = ["output"] if len(values) == 1 else [f"output_{index}" for index in range(len(values))]
    return {name: _array(value) for name, value in zip(names, values, strict=True)}


def _array(tensor: torch.Tensor) -> Array:
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
    return array
