"""What another machine wrote counts when its receipt is here, whenever the file system shows it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dataengine.core.errors import LedgerError
from dataengine.core.types import Keep, Reject
from dataengine.passes import receipts
from dataengine.passes.probe import Probe
from dataengine.passes.unit_pass import receipt
from dataengine.pipeline import patience
from dataengine.pipeline.ledger import Commit, Ledger
from dataengine.pipeline.patience import awaited
from dataengine.pipeline.task import Receipt, Task

OUTCOMES = (Keep("a"), Reject("b", "motion", 0.1, 0.2, "still"))
TASK = Task("u000000", ("a", "b"), "inputs")


def written(work: Path, inputs: str = "inputs") -> Receipt:
    """The receipt of a unit that was committed in a folder."""
    ledger = Ledger(work, "probe", "f" * 64)
    staged = ledger.stage("u000000", "parquet")
    staged.write_bytes(b"content")
    return receipt(TASK, 2, 1, time.monotonic(), ledger.commit("u000000", inputs, staged, OUTCOMES, 1.5))


def build(work: Path) -> Any:
    """As much of a build as a receipt needs."""

    def ledger(name: str) -> Ledger:
        return Ledger(work, name, "f" * 64)

    def find(name: str, key: str, inputs: str) -> Commit | None:
        return ledger(name).find(key, inputs, activate=True)

    return SimpleNamespace(job=SimpleNamespace(ledger=ledger), drives=True, find=find)


def test_the_record_of_a_receipt_counts_where_one_for_other_inputs_did(tmp_path: Path) -> None:
    written(tmp_path, inputs="of another build")
    told = written(tmp_path)
    ledger = Ledger(tmp_path, "probe", "f" * 64)
    assert ledger.read("u000000") == ledger.find("u000000", "of another build")
    assert receipts.received(Probe("probe"), build(tmp_path), TASK, told) == ledger.read("u000000")
    assert ledger.find("u000000", "of another build") is not None


def test_a_receipt_is_enough_where_no_file_is_to_be_seen(tmp_path: Path) -> None:
    told = written(tmp_path / "there")
    record = receipts.received(Probe("probe"), build(tmp_path / "here"), TASK, told)
    assert record == Ledger(tmp_path / "there", "probe", "f" * 64).read("u000000")
    assert (told.inputs, told.digest, told.artifact) == (record.inputs, record.digest, record.artifact)
    assert (told.host, told.pid) == (socket.gethostname(), os.getpid())


def test_the_record_of_a_receipt_shares_the_ids_of_clips() -> None:
    content = Commit("u", "i", "a", 1, "b", (Keep("a-clip-of-a-million"),)).to_json()
    one, other = (Commit.from_json(content).outcomes[0].clip_id for _ in range(2))
    assert one is other


def test_a_receipt_for_other_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=rf"pass probe: {socket.gethostname()} \(process \d+\) ran u000000 for other"):
        receipts.received(Probe("probe"), build(tmp_path), TASK, written(tmp_path, inputs="others"))


def _show_later(work: Path, seconds: float) -> None:
    """Write a unit out of sight, and let it be seen later, data first, as a file system that lags does."""
    written(work / "hidden")
    time.sleep(seconds)
    for folder in ("data", "commits"):
        shutil.copytree(work / "hidden" / "probe-ffffffffffff" / folder, work / "probe-ffffffffffff" / folder)
        time.sleep(seconds / 2)


def shown_later(work: Path, seconds: float) -> multiprocessing.process.BaseProcess:
    writer = multiprocessing.get_context("fork").Process(target=_show_later, args=(work, seconds))
    writer.start()
    return writer


@pytest.mark.parametrize("reading", ["receipt", "artifact"])
def test_what_another_process_wrote_is_waited_for(tmp_path: Path, reading: str) -> None:
    bare = Receipt("u000000", 2, 1, 0.0, "inputs", host="node7", pid=4711)  # a pass that gives no record
    writer = shown_later(tmp_path, 0.5)
    ledger = Ledger(tmp_path, "probe", "f" * 64)
    assert ledger.read("u000000") is None
    if reading == "receipt":
        assert receipts.received(Probe("probe"), build(tmp_path), TASK, bare).outcomes == OUTCOMES
    else:
        assert ledger.artifact("u000000").read_bytes() == b"content"
    writer.join()


def test_the_record_of_a_former_try_is_not_taken_for_the_one_that_is_waited_for(tmp_path: Path) -> None:
    written(tmp_path, inputs="former")
    bare = Receipt("u000000", 2, 1, 0.0, "inputs", digest="d")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "LIMIT", 0.1)
        with pytest.raises(LedgerError, match="is not to be seen here, or is of other inputs"):
            receipts.received(Probe("probe"), build(tmp_path), TASK, bare)


def test_what_never_appears_ends_in_a_line_that_names_host_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LIMIT", 0.1)
    bare = Receipt("u000000", 2, 1, 0.0, "inputs", host="node7", pid=4711)
    with pytest.raises(LedgerError) as error:
        receipts.received(Probe("probe"), build(tmp_path), TASK, bare)
    file = tmp_path / "probe-ffffffffffff" / "commits" / "u000000.json"
    assert f"u000000 ran on node7 (process 4711), but its record {file} is not to be seen here" in str(error.value)
    assert "\n" not in str(error.value)


def test_patience_lists_folders_anew_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Path] = []
    scandir = os.scandir
    monkeypatch.setattr(patience.os, "scandir", lambda folder: [listed.append(folder), scandir(folder)][1])
    found = iter([None, None, "it"])
    assert awaited(lambda: next(found), (tmp_path, tmp_path / "absent")) == "it"
    assert listed == [tmp_path, tmp_path / "absent"] * 2
    begun = time.monotonic()
    assert awaited(lambda: None, (tmp_path,), 0.2) is None and time.monotonic() - begun < 20
