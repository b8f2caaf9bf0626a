"""Calling an exported program without the wrapper that torch puts around it.

`ExportedProgram.module()` checks every call against all that the exporter noted, in 0.6 ms of Python: 70 times the
forward of a small network. The plain graph is called here instead, after the checks that matter: sizes that the export
has fixed, sizes that must be equal, and their bounds. Where a program has more to check, it keeps its wrapper.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any

import sympy
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

_STATE = {InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR}

# A guard that two sizes are one: the exporter has given them one name then, which is what is checked here.
_ONE_NAME = re.compile(r"L\['\w+'\]\.size\(\)\[\d+\] == L\['\w+'\]\.size\(\)\[\d+\]")

_SHAPES = 256  # of inputs that are remembered to fit

Call = Callable[..., Any]
Size = int | str


def callable_of(program: Any, inputs: int) -> Call:
    """A function of the program's input tensors, in order.

    Args:
        program: a torch.export.ExportedProgram.
        inputs: how many tensors it will be called with.
    """
    sizes = _sizes(program)
    if sizes is None or len(sizes) != inputs:
        call: Call = program.module()
        return call
    return _direct(program, sizes)


def _direct(program: Any, sizes: list[list[Size]]) -> Call:
    # Its own `__call__` looks for hooks first, which an exported program has none of.
    forward = program.graph_module.forward
    limits = program.range_constraints.items()
    bounds = {str(symbol): (float(limit.lower), float(limit.upper)) for symbol, limit in limits}
    state = [_state(program, spec) for spec in program.graph_signature.input_specs]
    result = _result(program.call_spec.out_spec)

    @lru_cache(_SHAPES)
    def check(shapes: tuple[torch.Size, ...]) -> None:
        _check(shapes, sizes, bounds)

    def call(*tensors: torch.Tensor) -> Any:
        check(tuple([tensor.shape for tensor in tensors]))
        given = iter(tensors)
        return result(forward(*[next(given) if value is None else value for value in state]))

    return call


def _result(spec: Any) -> Callable[[Any], Any]:
    """From what the graph answers, all in a row, to what the module did."""
    if spec.is_leaf():
        return itemgetter(0)
    if spec.type is tuple and all(child.is_leaf() for child in spec.children()):
        return tuple
    return lambda flat: pytree.tree_unflatten(flat, spec)


def _sizes(program: Any) -> list[list[Size]] | None:
    """Of each input, its sizes: a number, or the name of what is free. None where that is not all there is to check."""
    signature = program.graph_signature
    plain = all(spec.kind in _STATE or spec.kind is InputKind.USER_INPUT for spec in signature.input_specs)
    pure = all(spec.kind is OutputKind.USER_OUTPUT for spec in signature.output_specs)
    if not plain or not pure or not all(_ONE_NAME.fullmatch(guard) for guard in program._guards_code):
        return None
    names = set(signature.user_inputs)
    found = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                return None
            shape = [_size(size) for size in value.shape]
            if None in shape:
                return None
            found.append([size for size in shape if size is not None])
    return found


def _size(size: int | torch.SymInt) -> Size | None:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return str(expression) if isinstance(expression, sympy.Symbol) else None


def _state(program: Any, spec: Any) -> torch.Tensor | None:
    """The tensor that stands for an input of the graph; None for those of the call."""
    if spec.kind is InputKind.USER_INPUT:
        return None
    stored = program.state_dict if spec.target in program.state_dict else program.constants
    tensor: torch.Tensor = stored[spec.target]
    return tensor.detach()


def _check(shapes: tuple[torch.Size, ...], sizes: list[list[Size]], bounds: dict[str, tuple[float, float]]) -> None:
    seen: dict[str, int] = {}
    for shape, wanted in zip(shapes, sizes, strict=True):
        if len(wanted) != len(shape):
            raise ValueError(f"the exported program takes {len(wanted)} dimensions, not {len(shape)}")
        for axis, (size, want) in enumerate(zip(shape, wanted, strict=True)):
            if isinstance(want, int):
                fits = size == want
            else:
                lower, upper = bounds.get(want, (0, float("inf")))
                # An export says 2 where it has not looked at 1.
                fits = seen.setdefault(want, size) == size and (lower if lower > 2 else 0) <= size <= upper
            if not fits:
                raise ValueError(f"the exported program takes {want} at axis {axis}, not {size}; export it dynamic")
