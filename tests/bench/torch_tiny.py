"""The part `torch`: the tiny network as torch's program, made by torch_model.py where torch is."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from .models import Saved
from .servers import ROOT, BenchFailed

TORCH = ROOT / ".venv-torch"


def saved(folder: Path, of: Saved) -> Saved:
    """The tiny network of an ONNX file as torch's program.

    Raises:
        BenchFailed: there is no virtual environment with torch, or it can't be saved there.
    """
    command = [str(TORCH / "bin/python"), "-m", "tests.bench.torch_model", str(of.network), str(folder)]
    try:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = str(getattr(error, "stderr", ""))[-500:]
        raise BenchFailed(f"torch's model can't be made (make .venv-torch/.ready): {error}; {told}") from None
    site = [sysconfig.get_path("purelib", vars={"base": str(venv)}) for venv in (TORCH, Path(sys.prefix))]
    return Saved("torch", folder, of.array, of.expected, python=command[0], packages=tuple(site))
