"""A scoring that is killed or stopped goes on where it was: what is finished is never computed again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelramp_server.scoring.command import Status
from modelramp_server.scoring.whole import whole
from modelramp_server.settings import InvalidSettings
from tests.server import pictures
from tests.server.scoring import Watched, files, lines, scored, summary

ROWS = 20


BAD = 2  # a row that fails


def table(path: Path) -> Path:
    path.write_text("x\n" + "".join("none\n" if row == BAD else f"{row % 10}\n" for row in range(ROWS)))
    return path


def test_killed(lookup_model: Path, tmp_path: Path) -> None:
    source, output = table(tmp_path / "in.csv"), tmp_path / "out"
    process = Watched(tmp_path / "notes", 14, signal.SIGKILL)
    first = process.run(lookup_model, source, output, "--batch-size=1")
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert process.batches == 14 and not (output / "in.csv").exists()
    cut = output / "parts" / "000000000012.new"  # as a kill in the middle of a write leaves it
    cut.mkdir()
    (cut / "rows.csv").write_text("3,3")
    second = process.run(lookup_model, source, output, "--batch-size=1")
    assert second.returncode == Status.SOME_FAILED, second.stderr
    assert process.batches == 14 + ROWS - 12, "three parts of four rows were whole"
    assert (output / "in.csv").read_text().splitlines() == [
        "x,prediction", *("none," if row == BAD else f"{row % 10},{10.0 * (row % 10)}" for row in range(ROWS))
    ]  # fmt: skip
    assert files(output) == ["failures.jsonl", "in.csv"] and summary(output)["rows"] == ROWS
    assert [line["row"] for line in lines(output / "failures.jsonl")] == [BAD + 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(number: signal.Signals, lookup_model: Path, tmp_path: Path) -> None:
    source, output = table(tmp_path / "in.csv"), tmp_path / "out"
    process = Watched(tmp_path / "notes", 14, number)
    first = process.run(lookup_model, source, output, "--batch-size=1")
    assert first.returncode == 130
    assert first.stderr.endswith("stopped: 14 rows are done; the same command goes on from there\n")
    other = process.run(lookup_model, source, output, "--columns=x")
    assert other.returncode == 2 and "columns was '', is 'x'" in other.stderr
    second = process.run(lookup_model, source, output, "--batch-size=1")
    assert second.returncode == Status.SOME_FAILED and "14 rows are done already" in second.stderr
    assert process.batches == ROWS


def test_two_runs_in_one_folder(lookup_model: Path, tmp_path: Path) -> None:
    source, output = table(tmp_path / "in.csv"), tmp_path / "out"
    process = Watched(tmp_path / "notes", 14, signal.SIGSTOP)
    first = process.begin(lookup_model, source, output, "--batch-size=1")
    try:
        os.waitpid(first.pid, os.WUNTRACED)  # until it has stopped
        written = output / "parts" / "000000000012.new"  # as it has one in the middle of a write
        written.mkdir()
        second = process.run(lookup_model, source, output, "--batch-size=1")
        assert second.returncode == 2 and process.batches == 14
        assert f"another run is at work in PREDICT_OUTPUT (--output), {output}" in second.stderr
        written.rmdir()
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == Status.SOME_FAILED
    finally:
        first.kill()
        first.wait(10)
    assert files(output) == ["failures.jsonl", "in.csv"] and process.batches == ROWS


def test_images_killed(tmp_path: Path) -> None:
    model = pictures.folder(tmp_path / "model", pictures.segmenter(), {"preprocess": {}, "postprocess": {}})
    source, output = tmp_path / "images", tmp_path / "out"
    source.mkdir()
    for number in range(10):
        (source / f"{number}.png").write_bytes(pictures.encoded(pictures.half_red(32, 32)))
    process = Watched(tmp_path / "notes", 4, signal.SIGKILL)
    first = process.run(model, source, output, "--batch-size=2")
    assert first.returncode == -signal.SIGKILL, first.stderr
    done = lines(output / "results.partial.jsonl")
    assert len(done) == 4
    written = {line["image"]: (output / line["files"][0]).stat().st_mtime_ns for line in done}
    with (output / "results.partial.jsonl").open("a") as file:
        file.write('{"image":"9.png","wid')  # as a kill in the middle of a line leaves it
    second = process.run(model, source, output, "--batch-size=2")
    assert second.returncode == 0 and "4 images are done already" in second.stderr
    assert process.batches == 4 + 3
    found = lines(output / "results.jsonl")
    assert [line["image"] for line in found] == [f"{number}.png" for number in range(10)]
    assert files(output) == sorted([*(f"masks/{number}.png" for number in range(10)), "results.jsonl"])
    assert written == {line["image"]: (output / line["files"][0]).stat().st_mtime_ns for line in done}


def test_a_model_whose_code_was_compiled_in_its_folder_is_the_same_model(tmp_path: Path, lookup_model: Path) -> None:
    model, source, output = tmp_path / "model", table(tmp_path / "in.csv"), tmp_path / "out"
    shutil.copytree(lookup_model, model)
    assert scored(model, source, output) is Status.SOME_FAILED
    (model / "code/__pycache__").mkdir(parents=True)
    (model / "code/__pycache__/module.pyc").write_bytes(b"compiled")
    assert scored(model, source, output) is Status.SOME_FAILED
    (model / "code/module.py").write_text("another")
    with pytest.raises(InvalidSettings, match="holds another run"):
        scored(model, source, output)


def test_ctrl_c_before_the_first_row_is_one_line(tmp_path: Path) -> None:
    """While a registry that never answers is asked."""
    code = """
import os, signal
from modelramp_server import cli
from modelramp_server.model_store import fetch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do its children
fetch.local_folder = lambda settings: os.kill(os.getpid(), signal.SIGINT)
cli.main(["predict", "--model", "m", "--input", "in.csv", "--output", "out"])
"""
    (tmp_path / "in.csv").write_text("x\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (130, "modelramp-server: stopped\n")


def test_a_terminal_has_a_bar(lookup_model: Path, tmp_path: Path) -> None:
    source, output = table(tmp_path / "in.csv"), tmp_path / "out"
    terminal, its_end = os.openpty()
    arguments = ["--model", str(lookup_model), "--input", str(source), "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "modelramp_server", "predict", *arguments], stdout=subprocess.PIPE, stderr=its_end,
        text=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}, check=False,
    )  # fmt: skip
    os.close(its_end)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert done.returncode == Status.SOME_FAILED and "0%, 0 rows" in shown, shown
    assert "in.csv: 20 rows" in done.stdout and "%" not in done.stdout


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    for before in (None, "old"):
        with pytest.raises(OSError, match="disk"), whole(path) as scratch:
            scratch.write_text("ha")
            raise OSError("disk")
        assert (path.read_text() if path.exists() else None) == before
        with whole(path) as scratch:
            scratch.write_text("old")
