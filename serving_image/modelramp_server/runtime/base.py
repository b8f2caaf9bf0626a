"""What the server asks of a runtime, and the ways in which loading one can fail."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from modelramp_server.protocol.tensors import Array, TensorSpec


class Runtime(Protocol):
    """A loaded model. Called from one thread at a time, or from several where it says `at_once`.

    `predict` takes every declared input by name, with the declared datatype and rank, and answers every output
    by name. Inputs and outputs of a batch share their first axis. `fallback` says why the device is not the GPU that
    was looked for, or is empty. `only_computes`: nobody's code is in it that might wait, and the caller's thread
    computes, so its forwards take what they took before. `at_once`: its library says that a model may be run by several
    threads at one time.
    """

    name: str
    device: str
    fallback: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    named_outputs: bool
    only_computes: bool
    at_once: bool

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; whatever it raises is the model's failure."""
        ...


def computes_here(runtime: Runtime) -> bool:
    """Whether the thread that runs a forward has its CPU time to show for it: by that, what it takes does not depend on
    who else wants the interpreter or a CPU."""
    return runtime.only_computes and runtime.device == "cpu"


class Around:
    """What stands around a runtime shows the same model."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.name = runtime.name
        self.device = runtime.device
        self.fallback = runtime.fallback
        self.inputs = runtime.inputs
        self.outputs = runtime.outputs
        self.named_outputs = runtime.named_outputs
        self.only_computes = runtime.only_computes
        self.at_once = runtime.at_once
        if isinstance(runtime, UsesThreads):
            self.use_threads = runtime.use_threads
        if isinstance(runtime, TellsClasses):
            self.classes = runtime.classes


@runtime_checkable
class UsesThreads(Protocol):
    """A runtime that spreads a forward over threads; over all of the process's CPUs, if it is told nothing."""

    def use_threads(self, count: int) -> None:
        """Spread forwards over so many from now on."""
        ...


@runtime_checkable
class TellsClasses(Protocol):
    """A runtime whose outputs may be columns with names: by output, as soon as it has run once."""

    classes: Mapping[str, Sequence[str]]


@runtime_checkable
class TakesParams(Protocol):
    """A runtime whose models take MLflow's `params`. `predict` runs such a model with the defaults of its signature;
    of other runtimes' models, params are checked and not used, as MLflow does for the native flavours."""

    def predict_with(self, inputs: Mapping[str, Array], params: Mapping[str, Any]) -> dict[str, Array]:
        """Run the model once with every param of its signature."""
        ...


class ModelProblem(Exception):
    """A model that can't be served. `reason` is one of docs/contract.md; the message is one sentence."""

    reason = "LoadFailed"


class UnsupportedModel(ModelProblem):
    """No runtime in this image for the flavours found, or code in the model, which is not allowed."""

    reason = "UnsupportedModel"


class MissingPackages(ModelProblem):
    """The runtime chosen needs packages that the image lacks; the message names them."""

    reason = "MissingPackages"


class DeviceUnavailable(ModelProblem):
    """INFERENCE_DEVICE asks for a GPU, and there is none that the runtime can use."""

    reason = "DeviceUnavailable"


class ArtifactDamaged(ModelProblem):
    """Files of the model are missing, empty or unreadable."""

    reason = "ArtifactDamaged"


class LoadFailed(ModelProblem):
    """The runtime raised while it loaded the model."""

    reason = "LoadFailed"


class WarmupFailed(ModelProblem):
    """The model loaded, and failed on every input that fits its declared inputs."""

    reason = "WarmupFailed"


def first_line(error: BaseException) -> str:
    """An exception as one line of text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


def with_type(error: BaseException) -> str:
    """The same behind its type, without which "'foo'" says nothing."""
    kind = type(error).__name__
    return f"{kind}: {first_line(error)}" if str(error).strip() else kind
