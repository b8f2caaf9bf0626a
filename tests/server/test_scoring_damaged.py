"""Tables that can't be read in places: a row that is bad costs only itself, and what is before the damage is scored."""

from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet, table

from modelramp_server.scoring import csv_table
from modelramp_server.scoring.command import Status
from tests.server.scoring import files, lines, scored, summary

LONG = "a" * 200_000


def test_a_row_that_is_not_utf_8_fails_alone_and_stays_as_it_was(lookup_model: Path, tmp_path: Path) -> None:
    rows = [b"%d,caf\xc3\xa9" % (number % 10) for number in range(100)]
    rows[70] = b'3,"caf\xe9\n"'
    rows[40] = b"2,two\n\n"
    (tmp_path / "in.csv").write_bytes(b"x,note\n" + b"\n".join(rows) + b"\n")
    assert scored(lookup_model, tmp_path / "in.csv", tmp_path / "out") is Status.SOME_FAILED
    assert lines(tmp_path / "out/failures.jsonl") == [{"row": 71, "error": "line 74 is not UTF-8"}]
    made = (tmp_path / "out/in.csv").read_bytes()
    assert b'\n3,"caf\xe9\n",\n' in made and "\n9,café,90.0\n".encode() in made
    assert summary(tmp_path / "out")["rows"] == 100


def test_a_cell_may_be_long(lookup_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"x,note\n1,{LONG}\n2,b\n")
    assert scored(lookup_model, tmp_path / "in.csv", tmp_path / "out") is Status.ALL_SCORED
    assert (tmp_path / "out/in.csv").read_text() == f"x,note,prediction\n1,{LONG},10.0\n2,b,20.0\n"


@pytest.mark.parametrize("bad", ['"5" disks,2', f"{LONG},2"], ids=["a quote in the middle", "too long"])
def test_a_line_that_is_no_csv_fails_alone(
    bad: str, lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "_LONGEST", len(LONG) - 1)
    (tmp_path / "in.csv").write_text(f"note,x\na,1\n{bad}\nb,3\n")
    assert scored(lookup_model, tmp_path / "in.csv", tmp_path / "out") is Status.SOME_FAILED
    [told] = lines(tmp_path / "out/failures.jsonl")
    assert told["row"] == 2 and told["error"].startswith("line 3 can't be read: ")
    assert (tmp_path / "out/in.csv").read_text() == "note,x,prediction\na,1,10.0\n,,\nb,3,30.0\n"


@pytest.mark.parametrize("end", ["", 'e,"f",5\n', f"{LONG}\n"], ids=["nothing", "other quotes", "too much"])
def test_a_quote_without_an_end_keeps_what_is_before_it(
    end: str, lookup_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(csv_table, "_LONGEST", len(LONG) - 1)
    (tmp_path / "in.csv").write_text(f'note,x\na,1\n"b\n",99\n"c,3\nd,4\n{end}')
    for _ in range(2):  # the same command says the same
        assert scored(lookup_model, tmp_path / "in.csv", tmp_path / "out") is Status.PROBLEM
        told = capsys.readouterr().err
        assert "in.csv can't be read after line 4: a quote in line 5 has no end" in told and told.count("\n") == 1
        assert told.endswith(f"the rows before it are scored, in {tmp_path / 'out'}: in.csv, failures.jsonl\n")
        assert (tmp_path / "out/in.csv").read_text() == 'note,x,prediction\na,1,10.0\n"b\n",99,\n'
        assert [line["row"] for line in lines(tmp_path / "out/failures.jsonl")] == [2]
        assert not (tmp_path / "out/summary.json").exists()


def test_a_parquet_file_that_is_damaged_keeps_what_is_before_it(
    lookup_model: Path, tmp_path: Path, capsys: Any
) -> None:
    source = tmp_path / "in.parquet"
    parquet.write_table(table({"x": list(range(8))}), source, row_group_size=4)
    damaged = bytearray(source.read_bytes())
    start = parquet.ParquetFile(source).metadata.row_group(1).column(0).dictionary_page_offset
    damaged[start : start + 8] = b"\xff" * 8
    source.write_bytes(damaged)
    assert scored(lookup_model, source, tmp_path / "out", batch_size=4) is Status.PROBLEM
    assert "in.parquet can't be read: " in capsys.readouterr().err
    assert parquet.read_table(tmp_path / "out/in.parquet").to_pydict() == {
        "x": [0, 1, 2, 3],
        "prediction": [0.0, 10.0, 20.0, 30.0],
    }
    assert "summary.json" not in files(tmp_path / "out")
