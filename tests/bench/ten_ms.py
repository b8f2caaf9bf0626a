"""The server with a model whose forward takes 10 ms, of however many rows, and no CPU: as on an accelerator."""

import time
from collections.abc import Mapping
from typing import Any

from modelramp_server import cli, serve
from modelramp_server.protocol.tensors import Array

SECONDS = 0.010

_load = serve._load


def _slowed(*arguments: Any) -> Any:
    model, runtime = _load(*arguments)
    predict = runtime.predict

    def slow(inputs: Mapping[str, Array]) -> dict[str, Array]:
        time.sleep(SECONDS)
        return predict(inputs)

    runtime.predict = slow  # type: ignore[method-assign]
    return model, runtime


if __name__ == "__main__":
    setattr(serve, "_load", _slowed)  # noqa: B010
    cli.main()
