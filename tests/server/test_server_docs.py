"""The lines of docs/server.md do what the page says."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.server import models, pictures
from tests.server.served import Served

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
ADDRESS = "localhost:8080"


def commands() -> list[tuple[str, str]]:
    """Every line of the page's shell blocks with a curl, and what it prints: the comment below it, or ""."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()
    return [
        (line, after.removeprefix("# ") if after.startswith("# ") else "")
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if "curl" in line
    ]


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("iris") / "model"
    models.sklearn_folder(folder, LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)))
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace("-1, 64", "-1, 4"))
    (folder / "serving_input_example.json").write_text('{"inputs": [[5.1, 3.5, 1.4, 0.2]]}')
    server = Served(folder, model_name="iris").wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cracks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model that takes red for a crack."""
    declared = {"preprocess": pictures.UNIT, "postprocess": {"classes": ["other", "crack"], "activation": "softmax"}}
    folder = pictures.folder(tmp_path_factory.mktemp("cracks") / "model", pictures.segmenter(4), declared)
    server = Served(folder, model_name="cracks").wait_ready()
    yield server
    server.stop()


@pytest.mark.parametrize(("line", "output"), commands())
def test_curl(iris: Served, cracks: Served, tmp_path: Path, line: str, output: str) -> None:
    (tmp_path / "street.jpg").write_bytes(pictures.encoded(pictures.half_red(), "JPEG"))
    port = cracks.port if "/predict" in line else iris.port
    command = line.replace("curl ", "curl -sS --fail-with-body ").replace(ADDRESS, f"127.0.0.1:{port}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, timeout=30, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = re.search(r" -o (\S+)", line)
    said = (tmp_path / written[1]).read_bytes() if written else done.stdout.strip()
    assert said == output if output else said


def test_python(iris: Served) -> None:
    [block] = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if ADDRESS in block]
    code = block.replace(ADDRESS, f"127.0.0.1:{iris.port}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[0]", done.stderr


def test_there_are_lines_to_try() -> None:
    found = commands()
    assert len(found) >= 10 and all(shlex.split(line) for line, _ in found)
    assert sum(bool(output) for _, output in found) >= 5
