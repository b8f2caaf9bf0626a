"""The input example that was logged with the model, in the form that `/invocations` takes, as MLflow wrote it."""

from pathlib import Path

from modelramp_server.protocol.errors import ServingError

FILE = "serving_input_example.json"
LARGEST = 1 << 20  # bytes; a larger one is not offered


def find_example(folder: Path | None) -> bytes | None:
    """The example's JSON, if there is any."""
    try:
        return read_example(folder)
    except ServingError:
        return None


def read_example(folder: Path | None) -> bytes:
    """The example's JSON.

    Raises:
        ServingError: 404, there is none.
    """
    if folder is None:
        raise ServingError(404, "there is no folder of the model here, and so no input example")
    path = folder / FILE
    if not path.is_file() or path.resolve().parent != folder.resolve():
        raise ServingError(404, "the model was logged without an input example")
    with path.open("rb") as file:
        body = file.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ServingError(404, f"the model's input example is over {LARGEST} bytes; it is not offered")
    return body
