"""The ledger: commits are whole or absent, damage is found, garbage is what no commit names."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from dataengine.core.errors import LedgerError
from dataengine.core.types import Fail, Keep, Reject
from dataengine.pipeline.ledger import Ledger, collect_garbage
from tests.support.killed import at_every_change

OUTCOMES = (Keep("a"), Reject("b", "motion", 0.1, 0.2, "still"), Fail("c", "media_timeout", True, "slow"))


def commit(ledger: Ledger, unit: str = "u000000", content: bytes = b"content", inputs: str = "i") -> None:
    staged = ledger.stage(unit, "tar")
    staged.write_bytes(content)
    ledger.commit(unit, inputs, staged, OUTCOMES, 1.5)


def test_a_commit_reads_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    found = ledger.read("u000000")
    assert found is not None and found.outcomes == OUTCOMES and found.kept == ["a"] and found.retryable == 1
    assert ledger.artifact("u000000").read_bytes() == b"content"
    assert list(ledger.units()) == ["u000000"] and not list(ledger.staging.iterdir())


def test_committing_again_writes_the_same_bytes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    before = sorted(p.name for p in ledger.folder.rglob("*"))
    commit(ledger)
    assert sorted(p.name for p in ledger.folder.rglob("*")) == before


def test_new_inputs_replace_the_record(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    commit(ledger, content=b"other", inputs="j")
    found = ledger.read("u000000")
    assert found is not None and found.inputs == "j" and ledger.artifact("u000000").read_bytes() == b"other"


@pytest.mark.parametrize("damage", ["record", "shorter", "absent"])
def test_damage_means_not_done(tmp_path: Path, damage: str) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    path = ledger.artifact("u000000")
    if damage == "record":
        record = ledger.folder / "commits" / "u000000.json"
        record.write_bytes(record.read_bytes()[:40])
    elif damage == "shorter":
        path.write_bytes(b"cont")
    else:
        path.unlink()
    assert ledger.read("u000000") is None


def test_a_flipped_byte_is_found_and_dropped(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    ledger.artifact("u000000").write_bytes(b"cOntent")
    with pytest.raises(LedgerError, match="damaged after it was written"):
        ledger.artifact("u000000")
    assert ledger.read("u000000") is None


def test_the_digest_tells_outcomes_apart_but_not_times(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    digests = []
    for outcomes, seconds in ((OUTCOMES, 1.0), (OUTCOMES, 9.0), (OUTCOMES[:2], 1.0)):
        staged = ledger.stage("u", "tar")
        staged.write_bytes(b"x")
        digests.append(ledger.commit("u", "i", staged, outcomes, seconds).digest)
    assert digests[0] == digests[1] != digests[2]


def test_garbage_is_what_no_commit_names(tmp_path: Path) -> None:
    live, dead = Ledger(tmp_path, "pose", "a" * 64), Ledger(tmp_path, "pose", "b" * 64)
    for ledger in (live, dead):
        commit(ledger)
        commit(ledger, unit="u000001")
    (live.folder / "data" / "u000000-000000000000.tar").write_bytes(b"left behind")
    live.stage("u000002", "tar").write_bytes(b"half")
    collect_garbage(tmp_path, {live.folder.name: {"u000000"}})
    assert live.read("u000000") is not None and live.read("u000001") is None
    assert not dead.folder.exists() and not list(live.staging.iterdir())
    assert len(list((live.folder / "data").iterdir())) == 1


def test_two_processes_that_commit_the_same_unit_leave_one_whole_record(tmp_path: Path) -> None:
    """Both write, and wait for each other before every round, so that their commits overlap."""
    rounds, spawn = 20, multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    writers = [spawn.Process(target=_commit_often, args=(tmp_path, barrier, rounds, who)) for who in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    assert list(ledger.units()) == [f"u{n:06d}" for n in range(rounds)]
    for unit in ledger.units():
        found = ledger.read(unit)
        assert found is not None and found.outcomes == OUTCOMES
        assert ledger.artifact(unit).read_bytes() in (b"same" * 1000, b"content of 0", b"content of 1")
    assert not list(ledger.staging.iterdir()) and not list(ledger.folder.rglob("*.partial"))


def _commit_often(work: Path, barrier: Any, rounds: int, who: int) -> None:
    """Even units have the same content from both, as the same code on the same inputs; odd ones do not."""
    ledger = Ledger(work, "pose", "f" * 64)
    for n in range(rounds):
        barrier.wait(60)
        commit(ledger, f"u{n:06d}", b"same" * 1000 if n % 2 == 0 else f"content of {who}".encode())


def test_a_commit_killed_at_any_step_is_whole_or_absent(tmp_path: Path) -> None:
    """Before every change to a file in turn: the unit's record is the old one or the new one, never a part."""
    steps = 0

    def ledger(n: int) -> Ledger:
        return Ledger(tmp_path / str(n), "pose", "f" * 64)

    def work(n: int) -> None:
        commit(ledger(n), content=b"new", inputs="j")

    commit(ledger(0), content=b"old")
    for n, killed in at_every_change(work, lambda n: str(tmp_path / str(n))):
        found = ledger(n).read("u000000")
        assert found is not None and (found.inputs, ledger(n).artifact("u000000").read_bytes()) in (
            ("i", b"old"),
            ("j", b"new"),
        )
        assert killed or found.inputs == "j"
        commit(ledger(n), content=b"new", inputs="j")
        again = ledger(n).read("u000000")
        assert again is not None and again.inputs == "j" and ledger(n).artifact("u000000").read_bytes() == b"new"
        commit(ledger(n + 1), content=b"old")
        steps += killed
    assert steps >= 3
