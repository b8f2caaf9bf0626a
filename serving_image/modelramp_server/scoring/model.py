"""A model in Python, as the server would serve it: `load_model("models:/cracks@prod").predict(array)`.

The same store, runtimes, settings, warm-up and checks; only the wire is missing.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from modelramp_server.batching.forward import concatenated, predicted
from modelramp_server.batching.model_thread import BatchLimits, prepare
from modelramp_server.dotenv_file import read_dotenv
from modelramp_server.model_store import fetch
from modelramp_server.protocol.errors import BadRequest, ModelFailed
from modelramp_server.protocol.tensors import Array, rows_of
from modelramp_server.runtime import mlmodel
from modelramp_server.runtime.base import Runtime, with_type
from modelramp_server.runtime.choice import load
from modelramp_server.scoring.inputs import bound
from modelramp_server.settings import LoadSettings, parse


def load_model(model: str | Path, **settings: Any) -> Model:
    """Load a model and warm it up.

    Args:
        model: a folder, `models:/<name>/<version>`, `models:/<name>@<alias>` (outside a cluster), `s3://...`: what
            `modelramp-server serve --model` takes.
        settings: the server's settings in lower case, such as `allow_code=True` or `batch_size=64`. What is not given
            is taken from the environment, and outside a cluster from `.env`.

    Raises:
        TypeError: no such setting.
        InvalidSettings: a setting that can't work.
        ModelProblem: why the model can't be loaded; its `reason` is one of docs/contract.md.
    """
    for name in settings:
        if name not in LoadSettings.model_fields:
            raise TypeError(f"load_model has no setting {name!r}; it has {', '.join(LoadSettings.model_fields)}")
    read_dotenv()
    named_here = {"mlflow_model_name": "", "mlflow_model_alias": "", "model_path": str(model)}
    told = parse(LoadSettings, Namespace(**named_here, **settings))
    return Model(told, fetch.local_folder(told))


class Model:
    """A loaded model. May be used from any number of threads: one thread of its own runs it, one call after another.

    Use it in a `with` block, or `close` it, to let go of its memory.
    """

    def __init__(self, settings: LoadSettings, folder: Path) -> None:
        self.name = settings.name_of(folder)
        self.version = settings.model_version
        limits = BatchLimits(settings.batch_size, 0.0, settings.warmup, 0.0, settings.pyfunc_batching)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        try:
            self._runtime: Runtime | None
            preparing = self._thread.submit(prepare, lambda: _load(settings, folder), limits)
            self._runtime, self.spec, warm = preparing.result()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        self.seen_outputs = warm.outputs
        self.inputs, self.outputs = self.spec.inputs, self.spec.outputs
        self.runtime, self.device, self.batch_rows = self.spec.runtime, self.spec.device, self.spec.batch_rows

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Array | dict[str, Array]:
        """What the model says to all rows of the data.

        Args:
            data: rows (an array or nested lists), a mapping from the inputs' names to such, or a pandas DataFrame.
            params: what the model takes beside its inputs.

        Returns:
            An array if the model has one output, else a dict of arrays by the outputs' names.

        Raises:
            ValueError: the data do not fit the model's inputs, or the params its signature.
            ModelFailed: the model raised; its own error is the cause.
        """
        try:
            inputs = bound(data, self.spec)
            rows = rows_of(inputs, self.inputs)
            told = self.spec.params.canonical(dict(params) if params else None)
        except BadRequest as error:
            raise ValueError(error.message) from None
        outputs = self.run(inputs, rows, told)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def run(self, inputs: dict[str, Array], rows: int, params: bytes = b"") -> dict[str, Array]:
        """The outputs for checked inputs, by forwards of `batch_rows` where batches are proven to answer as rows do.

        Raises:
            ModelFailed: the model raised.
        """
        if self._runtime is None:
            raise RuntimeError(f"the model {self.name} is closed")
        return self._thread.submit(_run, self._runtime, inputs, rows, self.batch_rows, params).result()

    def close(self) -> None:
        """Wait for what is running, and let go of the model."""
        self._thread.shutdown()
        self._runtime = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._thread.shutdown(wait=False)  # a forward may never end
        else:
            self.close()


def _load(settings: LoadSettings, folder: Path) -> tuple[mlmodel.MLmodel, Runtime]:
    model = mlmodel.read(folder)
    return model, load(model, settings.model_runtime, settings.inference_device, settings.allow_code)


def _run(runtime: Runtime, inputs: dict[str, Array], rows: int, batch: int, params: bytes) -> dict[str, Array]:
    try:
        if batch == 1 or rows <= batch:
            return predicted(runtime, inputs, params)
        starts = range(0, rows, batch)
        parts = ({name: array[start : start + batch] for name, array in inputs.items()} for start in starts)
        return concatenated([predicted(runtime, part, params) for part in parts])
    except (Exception, SystemExit) as error:  # a model that calls sys.exit() ends nobody's program
        raise ModelFailed(f"the model failed on this input: {with_type(error)}") from error
