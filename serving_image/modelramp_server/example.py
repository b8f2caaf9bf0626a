"""The input example that was logged with the model, in the form that `/invocations` takes, as MLflow wrote it."""

from pathlib import Path

from modelramp_server.protocol.errors import ServingError

FILE = "serving_input_example.json"
LARGEST = 1 << 20  # bytes; a larger one is not offered


def read_example(folder: Path) -> bytes:
    """The example's JSON.

    Raises:
        ServingError: 404, there is none.
    """
    path = folder / FILE
    if not path.is_file() or path.resolve().parent != folder.resolve():
        raise ServingError(404, "the model was logged without an input example")
    with path.open("rb") as file:
        body = file.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ServingError(404, f"the model's input example is over {LARGEST} bytes; it is not offered")
    return body
