"""Where a model runs: what INFERENCE_DEVICE asks for, against what is there. A fallback to the CPU is never silent."""

import logging
from dataclasses import dataclass
from pathlib import Path

from modelramp_server.runtime.base import DeviceUnavailable, first_line
from modelramp_server.settings import Device

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """`cpu` or `cuda`; `fallback` says why it is the CPU although a GPU was looked for, or is empty."""

    device: str
    fallback: str = ""


def place(wanted: Device, obstacle: str, expected: bool) -> Placement:
    """Choose the device.

    Args:
        wanted: INFERENCE_DEVICE.
        obstacle: why the GPU can't be used; empty if it can.
        expected: whether `auto` should have found one: the image is built for GPUs, or the pod has one.

    Raises:
        DeviceUnavailable: `cuda` is wanted and can't be had.
    """
    if wanted == "cpu":
        return Placement("cpu")
    if not obstacle:
        return Placement("cuda")
    if wanted == "cuda":
        raise DeviceUnavailable(
            f"INFERENCE_DEVICE is cuda, but {obstacle}; give the pod a GPU (spec.server.gpu) and an image for GPUs, "
            "or set it to auto or cpu"
        )
    if not expected:
        return Placement("cpu")
    log.warning("falling back to the CPU: %s", obstacle)
    return Placement("cpu", obstacle)


def place_on_cpu(wanted: Device, runtime: str) -> Placement:
    """The device of a runtime that knows none but the CPU.

    Raises:
        DeviceUnavailable: `cuda` is wanted.
    """
    return place("cuda" if wanted == "cuda" else "cpu", f"{runtime} models run on the CPU only", expected=False)


def place_on_torch(wanted: Device) -> Placement:
    """The device of a runtime that computes with torch.

    Raises:
        DeviceUnavailable: `cuda` is wanted and torch can't have it.
    """
    if wanted == "cpu":
        return Placement("cpu")
    import torch

    built = torch.backends.cuda.is_built()
    return place(wanted, _torch_obstacle(), expected=built or gpu_visible())


def gpu_visible() -> bool:
    """Whether this container was given an NVIDIA device."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _torch_obstacle() -> str:
    import torch

    if not torch.backends.cuda.is_built():
        return "torch in this image is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        return f"torch can't use the GPU: {first_line(error)}"
    return ""
