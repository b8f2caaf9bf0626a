"""What MLflow makes of a model's outputs, where their arrays don't tell."""

from modelramp_server.protocol.tensors import Array


class Named(dict[str, Array]):
    """A mapping that the model answered: its names belong to the answer, though it be only one."""


class Records(Named):
    """The columns of a frame: a record for each row."""
