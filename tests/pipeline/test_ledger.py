"""The ledger: commits are whole or absent, damage is found, garbage is what no commit names."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.core.errors import LedgerError
from dataengine.core.types import Fail, Keep, Reject
from dataengine.pipeline.ledger import Ledger, collect_garbage

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


def test_committing_twice_writes_the_same_bytes(tmp_path: Path) -> None:
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
