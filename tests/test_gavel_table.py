"""The table of Gavel's traces, on a trace made for the tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlsched.experiments import gavel_table

SAMPLES = Path(__file__).parent / "data"


def test_every_policy_plays_the_trace_in_both_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job of four GPUs is left out of the rigid form; no makespan is below the bound."""
    monkeypatch.setattr(gavel_table, "POLICIES", ("fifo", "gavel-makespan"))
    shutil.copy(SAMPLES / "simulation_throughputs.json", tmp_path)
    lines = (SAMPLES / "net.trace").read_text()
    large = lines.splitlines()[0].split("\t")
    large[6] = "4"
    (tmp_path / "net.trace").write_text(lines + "\t".join([*large[:-1], "9"]) + "\n")
    out = tmp_path / "gavel.json"
    places = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "-o", str(out)]
    gavel_table.main([*places, "--traces", "net", "--policy", "srpt", "--processes", "1"])
    tables = json.loads(out.read_text())["tables"]
    assert [(t["form"], t["jobs"], t["left_out"]) for t in tables] == [("rigid", 2, 1), ("moldable", 3, 0)]
    assert [list(table["rows"]) for table in tables] == [["fifo", "gavel-makespan", "srpt"]] * 2
    for table in tables:
        assert all(row["makespan"] >= table["bound"] - 1e-6 for row in table["rows"].values())
        assert all(row["unfinished_jobs"] == 0 for row in table["rows"].values())
    assert "| `srpt` |" in capsys.readouterr().out


def test_data_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is played or written."""
    with pytest.raises(SystemExit) as ended:
        gavel_table.main(["--data", str(tmp_path), "-o", str(tmp_path / "out.json")])
    assert ended.value.code == 2
    assert f"{tmp_path}: expected minimize_makespan.trace of Gavel's repository there" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
