"""The journal: what has been appended stays, whatever a crash does to its end; other damage is refused."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import Execute

from rlsched.executor.journal import Journal, JournalError, Record, fold, seal


def read(path: Path) -> list[Record]:
    """All records."""
    records: list[Record] = []
    fold(path, records.append)
    return records


def numbers(path: Path) -> list[int]:
    return [record["number"] for record in read(path)]


def broken(*arguments: object) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def restart_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("adoption", "claim", "session"):
        monkeypatch.setattr(f"rlsched.executor.{module}.boot_id", lambda: "another")


def whole(count: int) -> bytes:
    """A journal of so many records."""
    return b"".join(seal({"number": number, "text": "ünïcode, \n and all"}) for number in range(count))


def test_it_keeps_what_was_appended(tmp_path: Path) -> None:
    """Over any number of openings."""
    path = tmp_path / "journal.jsonl"
    for number in range(3):
        found: list[Record] = []
        journal = Journal(path, found.append)
        assert [record["number"] for record in found] == list(range(number))
        journal.append({"number": number})
        journal.close()
    assert numbers(path) == [0, 1, 2]


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
def test_what_is_no_number_is_refused_and_leaves_the_file_as_it_was(number: float, tmp_path: Path) -> None:
    """But words are words."""
    words = {"record": "a", "reason": "NaN, or even -Infinity"}
    found: list[Record] = []
    journal = Journal(tmp_path / "j", found.append)
    journal.append(words)
    with pytest.raises(ValueError, match="Out of range float values"):
        journal.append({"record": "b", "at": [number]})
    journal.append(words)
    journal.close()
    fold(tmp_path / "j", found.append)
    assert [{name: record[name] for name in words} for record in found] == [words, words]


def test_wherever_a_crash_cuts_it_all_complete_records_remain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the next record follows them in a line of its own."""
    path = tmp_path / "journal.jsonl"
    for length in range(len(whole(2)) + 1):
        path.write_bytes(whole(2)[:length])
        complete = whole(2)[:length].count(b"\n")
        assert numbers(path) == list(range(complete))
        journal = Journal(path, lambda record: None)
        assert bool(caplog.records) == (length not in (0, len(whole(1)), len(whole(2))))
        caplog.clear()
        journal.append({"number": complete})
        journal.close()
        assert numbers(path) == list(range(complete + 1))


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_in_the_last_record_drops_it(
    bit: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing but it; somebody is told."""
    path = tmp_path / "journal.jsonl"
    for position in range(len(whole(1)), len(whole(2))):
        damaged = bytearray(whole(2))
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        Journal(path, lambda record: None).close()
        assert path.read_bytes() == whole(1)
    assert f"{path}: its end was damaged by a crash, {len(whole(2)) - len(whole(1))} bytes are dropped" in caplog.text


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_before_it_is_refused(bit: int, tmp_path: Path) -> None:
    """With file, line and place, and without touching the file."""
    path = tmp_path / "journal.jsonl"
    for position in range(len(whole(1)), len(whole(2))):
        damaged = bytearray(whole(3))
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        expected = rf"journal.jsonl:2: the journal is damaged here, {len(whole(1))} bytes from its start"
        with pytest.raises(ValueError, match=expected):
            Journal(path, lambda record: None)
        assert path.read_bytes() == damaged


def test_a_run_whose_last_record_was_torn_reads_the_result_again(
    execute: Execute, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The task had ended, and its launcher has left the result: it is not run again."""
    tasks = "t: {run: echo t >> ran}"
    execute(tasks)
    journal = tmp_path / "runs" / "flow" / "journal.jsonl"
    begin, start, end, _ = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(begin + start + end[:20])
    with caplog.at_level(logging.WARNING):
        result = execute(tasks)
    assert result.nothing_to_do
    assert "its end was damaged by a crash, 20 bytes are dropped" in caplog.text
    assert (tmp_path / "ran").read_text() == "t\n"
    assert [record["record"] for record in read(journal)] == ["begin", "start", "end", "begin", "close"]


@pytest.mark.parametrize("torn", [b"", b'{"record":"sta'], ids=["at the end of a record", "within a record"])
@pytest.mark.parametrize("claim", ["", '{"pid": 1', None], ids=["empty", "cut", "whole"])
def test_a_run_goes_on_after_a_power_loss_that_took_the_end_of_its_records(
    torn: bytes, claim: str | None, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start of a task is missing in the journal. Nobody can run any more, and what was left is not believed."""
    tasks = "t: {run: echo t >> ran}"
    execute(tasks)
    journal = tmp_path / "runs" / "flow" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0] + torn)
    if claim is not None:
        (tmp_path / "runs" / "flow" / "attempts" / "t.1.claim.json").write_text(claim)
    restart_the_machine(monkeypatch)
    result = execute(tasks)
    assert result.exit_code == 0
    assert (tmp_path / "ran").read_text() == "t\nt\n"


def test_a_result_from_before_a_power_loss_is_not_believed_after_the_next_crash(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal has lost the start of its task; a driver since then has come to no more than its first record."""
    tasks = "t: {run: echo t >> ran}"
    execute(tasks)
    journal = tmp_path / "runs" / "flow" / "journal.jsonl"
    first = journal.read_bytes().splitlines(keepends=True)[0]
    begin = {name: value for name, value in json.loads(first).items() if name != "crc32"}
    journal.write_bytes(first + seal({**begin, "boot": "another"}) + b'{"record":"sta')
    restart_the_machine(monkeypatch)
    execute(tasks)
    assert (tmp_path / "ran").read_text() == "t\nt\n"


@pytest.mark.parametrize("records", [1, 2], ids=["unknown", "known"])
def test_a_claim_that_a_power_loss_has_emptied_does_no_harm_later(
    records: int, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to the first driver after it nor, when a record is torn then, to the next one."""
    tasks = "t: {run: echo t >> ran}"
    execute(tasks)
    journal = tmp_path / "runs" / "flow" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:records]))
    (tmp_path / "runs" / "flow" / "attempts" / "t.1.claim.json").write_text("")
    restart_the_machine(monkeypatch)
    assert execute(tasks).exit_code == 0
    journal.write_bytes(journal.read_bytes()[:-3])
    assert execute(tasks).nothing_to_do


def test_after_a_disk_that_took_a_part_of_a_record_the_next_one_is_in_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if what was written could not be taken back at once."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, lambda record: None)
    journal.append({"number": 0})
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", broken)
        disk.setattr(os, "ftruncate", broken)
        with pytest.raises(JournalError):
            journal.append({"number": 7})
    journal.append({"number": 1})
    journal.close()
    assert numbers(path) == [0, 1]


def test_without_its_journal_a_run_begins_anew(execute: Execute, tmp_path: Path) -> None:
    """What earlier attempts have left is not taken for a result of those that follow."""
    tasks = "t: {run: echo t >> ran}"
    execute(tasks)
    (tmp_path / "runs" / "flow" / "journal.jsonl").unlink()
    execute("t: {run: echo other >> ran}")
    assert (tmp_path / "ran").read_text() == "t\nother\n"


def test_a_damaged_run_is_refused(execute: Execute, tmp_path: Path) -> None:
    """Nothing is run and nothing is changed."""
    tasks = "t: {run: echo t >> ran}"
    execute(tasks)
    journal = tmp_path / "runs" / "flow" / "journal.jsonl"
    damaged = journal.read_bytes().replace(b'"attempt":1', b'"attempt":7', 1)
    journal.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"journal.jsonl:2: the journal is damaged here"):
        execute(tasks)
    assert journal.read_bytes() == damaged
    assert (tmp_path / "ran").read_text() == "t\n"
