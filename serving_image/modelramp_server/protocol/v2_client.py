"""V2 REST from the client's side, with raw tensors both ways: what is sent, and how an answer is read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from modelramp_server.protocol.tensors import DTYPES, Array, datatype_of, from_bytes, from_json, reshape, to_bytes

_LACKING = ("NaN", "Infinity", "-Infinity")  # numbers that JSON lacks, as they are written


def request(inputs: Mapping[str, Array]) -> tuple[bytes, int]:
    """The body that asks for all outputs, and the length of its JSON part."""
    entries: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for name, array in inputs.items():
        tails.append(to_bytes(array))
        entry = {"name": name, "datatype": datatype_of(array), "shape": array.shape}
        entries.append({**entry, "parameters": {"binary_data_size": len(tails[-1])}})
    header = orjson.dumps({"inputs": entries, "parameters": {"binary_data_output": True}})
    return b"".join([header, *tails]), len(header)


def outputs(entries: Sequence[dict[str, Any]], tail: memoryview) -> Iterator[tuple[dict[str, Any], Array]]:
    """Each output of an answer with its values, which are as many as its shape asks for.

    Args:
        entries: `outputs` of the JSON part.
        tail: what follows that.

    Raises:
        BadRequest, ValueError, KeyError, TypeError, AttributeError: the answer contradicts itself, or is none.
    """
    position = 0
    for entry in entries:
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = values(entry["data"], entry["datatype"], entry["name"])
        else:
            array = from_bytes(tail[position : position + size], entry["datatype"], entry["name"])
            position += size
        yield entry, reshape(array, tuple(entry["shape"]), entry["name"])
    if position != len(tail):
        raise ValueError(f"{len(tail) - position} bytes belong to no output")


def values(data: Any, datatype: str, where: str) -> Array:
    """What an output's `data` says, flat or nested as it is; nothing in it changes its meaning.

    Raises:
        BadRequest, KeyError, TypeError: the datatype can't hold it, or is none.
    """
    if DTYPES[datatype].kind == "f" and str in set(map(type, data)):
        data = [float(value) if value in _LACKING else value for value in data]
    return from_json(data, datatype, where)
