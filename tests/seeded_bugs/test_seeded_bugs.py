"""Bugs seeded by hand into decide, project and the engine: each must be caught by the tests that its patch names.

The first line of a patch says what it breaks, the second which tests notice. `make soak` runs them all; that each still
applies is checked in every run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATCHES = sorted(Path(__file__).parent.glob("*.patch"))
LONG = os.environ.get("MODELRAMP_SOAK")
NEEDED = ("pyproject.toml", "operator/modelramp", "tests/__init__.py", "tests/unit", "tests/simulation")


def test_there_are_twenty() -> None:
    assert len(PATCHES) >= 20


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_the_bug_can_still_be_seeded(patch: Path) -> None:
    subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, check=True)


@pytest.mark.skipif(not LONG, reason="long: make soak")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_the_bug_is_caught(patch: Path, tmp_path: Path) -> None:
    for name in NEEDED:
        source, copy = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    tests = patch.read_text().splitlines()[1].removeprefix("caught by: ").split()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'operator'}:{tmp_path}", "MODELRAMP_STEPS": "300"}
    command = [sys.executable, "-m", "pytest", "-x", *tests]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"{patch.name} was not noticed: {done.stdout[-2000:]}{done.stderr[-500:]}"
