"""The lines of "Without a server" in docs/server.md do what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.server import models, pictures

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
SECTION = PAGE.split("\n## Without a server\n")[1].split("\n## ")[0]
COMMAND = 'modelramp-server() { "$PYTHON" -m modelramp_server "$@"; }\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the lines speak of."""
    models.sklearn_folder(tmp_path / "iris", LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)))
    text = (tmp_path / "iris/MLmodel").read_text()
    (tmp_path / "iris/MLmodel").write_text(text.replace("-1, 64", "-1, 4"))
    pictures.folder(tmp_path / "cracks", pictures.segmenter(), {"preprocess": {}, "postprocess": {}})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/wall.jpg").write_bytes(pictures.encoded(pictures.half_red(), "JPEG"))
    return tmp_path


def told(block: str) -> str:
    """What the comments say that it prints."""
    return "\n".join(line.removeprefix("# ") for line in block.splitlines() if line.startswith("# "))


def test_python(place: Path) -> None:
    [block] = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=place, check=False)
    assert done.stdout.strip() == told(block), done.stderr


def test_shell(place: Path) -> None:
    [block] = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    script = "set -euo pipefail\n" + COMMAND + re.sub(r"(modelramp-server predict .*)", r"\1 >/dev/null", block)
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=place, env=environment, check=False
    )
    assert done.stdout.strip() == told(block), done.stderr
    assert (place / "found/overlays/wall.png").is_file()
