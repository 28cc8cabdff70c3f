"""The table of gaps on PSPLIB: the rows, going on after an interruption, and what is said where data are missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlsched.experiments.psplib_table import Cell, ResultFile, markdown, run, table

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "data" / "tiny.rcp"


def test_every_method_plays_every_instance_and_what_is_done_stays_done(tmp_path: Path) -> None:
    """The project takes 11 s, whatever the list; a second run plays nothing again."""
    files = [Path(shutil.copy(SAMPLE, tmp_path / name)) for name in ("one.rcp", "two.rcp")]
    out = tmp_path / "results" / "psplib.json"
    rows = run(files, ["fifo"], 0.05, out, processes=1)
    assert [row.method for row in rows] == [
        *("lft", "lst", "mslk", "grpw", "mts", "spt", "lft sampled", "ga", "cp-sat", "fifo", "fifo + search"),
    ]
    assert {(row.instances, row.optimal, row.mean_gap) for row in rows} == {(2, 2, 0.0)}
    first = json.loads(out.read_text())
    assert first["manifest"]["versions"]["ortools"]
    assert {cell["bound"] for cell in first["cells"] if cell["method"] == "optimum"} == {11.0}
    run(files, ["fifo"], 0.05, out, processes=1)
    assert json.loads(out.read_text())["cells"] == first["cells"]


def test_results_with_another_limit_are_made_anew_but_optima_are_kept(tmp_path: Path) -> None:
    """What CP-SAT has proved holds for every version."""
    results = ResultFile(tmp_path / "r.json", 1.0, ["fifo"])
    for method in ("optimum", "ga"):
        results.add(Cell("one", method, 9.0, 0.1))
    results.write()
    assert set(ResultFile(tmp_path / "r.json", 1.0, []).cells) == {("one", "optimum"), ("one", "ga")}
    assert set(ResultFile(tmp_path / "r.json", 2.0, []).cells) == {("one", "optimum")}
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ValueError, match=r"r.json: expected the results of this script, found something else"):
        ResultFile(tmp_path / "r.json", 1.0, [])


def test_gaps_are_to_the_optimum() -> None:
    """5 % on one of two instances."""
    cells = [Cell(name, "optimum", 20.0, 1.0) for name in ("a", "b")]
    cells += [Cell("a", "ga", 21.0, 1.0), Cell("b", "ga", 20.0, 2.0)]
    (row,) = table(cells)
    assert (row.method, row.instances, row.optimal, row.seconds) == ("ga", 2, 1, 1.5)
    assert (row.mean_gap, row.low, row.high, row.max_gap) == pytest.approx((2.5, 0.0, 5.0, 5.0))
    assert "| ga | 2.50 % | 0.00-5.00 % | 5.0 % | 1/2 | 1.500 |" in markdown([row])


def test_missing_data_are_named_in_one_line(tmp_path: Path) -> None:
    """Exit code 2, and nothing is written."""
    done = subprocess.run(
        [sys.executable, "-m", "rlsched.experiments.psplib_table", "--data", str(tmp_path), "-o", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}: expected a folder of PSPLIB's j30 as .rcp files, found none; see --data\n"
    assert list(tmp_path.iterdir()) == []
