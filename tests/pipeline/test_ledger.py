"""The ledger: commits are whole or absent, damage is found, garbage is what no commit names."""

from __future__ import annotations

import errno
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

from dataengine.core.errors import DamagedArtifact
from dataengine.core.types import Fail, Keep, Reject
from dataengine.pipeline import patience
from dataengine.pipeline.ledger import Commit, Ledger
from tests.support.killed import at_every_change

OUTCOMES = (Keep("a"), Reject("b", "motion", 0.1, 0.2, "still"), Fail("c", "media_timeout", True, "slow"))


def commit(
    ledger: Ledger, unit: str = "u000000", content: bytes = b"content", inputs: str = "i", replaces: str = ""
) -> Commit:
    staged = ledger.stage(unit, "tar")
    staged.write_bytes(content)
    return ledger.commit(unit, inputs, staged, OUTCOMES, 1.5, replaces=replaces)


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
    before = {p: p.read_bytes() for p in ledger.folder.glob("*/*")}
    commit(ledger)
    assert {p: p.read_bytes() for p in ledger.folder.glob("*/*")} == before


def test_records_for_other_inputs_stay_and_the_driver_says_which_one_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    commit(ledger, content=b"other", inputs="j")
    for inputs, content in (("i", b"content"), ("j", b"other"), ("i", b"content")):
        found = ledger.find("u000000", inputs)
        assert found is not None and ledger.checked(found).read_bytes() == content
        assert ledger.find("u000000", inputs, activate=True) == found == ledger.read("u000000")
        assert ledger.artifact("u000000").read_bytes() == content
    assert ledger.find("u000000", "k", activate=True) is None and list(ledger.units()) == ["u000000"]


def test_of_two_that_do_one_unit_the_first_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    assert commit(ledger, content=b"later") == ledger.read("u000000")
    assert ledger.artifact("u000000").read_bytes() == b"content"


def test_a_retry_replaces_the_record_that_it_read_and_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    first = commit(ledger)
    second = commit(ledger, content=b"second", replaces=first.digest)
    assert ledger.read("u000000") == second != first
    assert commit(ledger, content=b"third", replaces=first.digest) == second == ledger.read("u000000")


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


def test_a_flipped_byte_is_found_and_named_and_the_unit_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LIMIT", 0.2)
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    commit(ledger)
    commit(ledger, inputs="j")  # of the same content: neither record holds
    ledger.artifact("u000000").write_bytes(b"cOntent")
    with pytest.raises(DamagedArtifact, match="damaged after it was written") as found:
        ledger.artifact("u000000")
    error = pickle.loads(pickle.dumps(found.value))  # noqa: S301 - as it travels from a worker
    assert (error.pass_name, error.unit, str(error)) == ("pose", "u000000", str(found.value))
    assert ledger.read("u000000") is None and ledger.find("u000000", "j") is None
    with pytest.raises(DamagedArtifact, match="unit u000000 has no artifact"):  # what others find who read it, too
        ledger.artifact("u000000")


def test_a_flipped_byte_beside_an_artifact_is_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pack", "f" * 64)
    staged = ledger.stage("train-000000", "tar")
    staged.write_bytes(b"shard")
    made = ledger.commit("train-000000", "i", staged, (), 1.0, b'[{"offset": 512}]')
    assert ledger.sidecar(made) == b'[{"offset": 512}]'
    (ledger.folder / "data" / f"{made.artifact}.json").write_bytes(b'[{"offset": 513}]')
    with pytest.raises(DamagedArtifact, match="train-000000"):
        ledger.sidecar(made)
    assert ledger.read("train-000000") is None


def test_the_digest_tells_outcomes_apart_but_not_times(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    digests = []
    for inputs, outcomes, seconds in (("i", OUTCOMES, 1.0), ("j", OUTCOMES, 9.0), ("k", OUTCOMES[:2], 1.0)):
        staged = ledger.stage("u", "tar")
        staged.write_bytes(b"x")
        digests.append(ledger.commit("u", inputs, staged, outcomes, seconds).digest)
    assert digests[0] == digests[1] != digests[2]


def test_records_are_created_if_absent_where_files_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    ledger = Ledger(tmp_path, "pose", "f" * 64)
    first = commit(ledger)
    assert commit(ledger, content=b"later") == first == ledger.read("u000000")
    ledger.record("u000000").write_bytes(b"")  # claimed by a writer that was killed
    assert commit(ledger, content=b"later") == ledger.read("u000000") != first
    assert not list(tmp_path.rglob("*.partial"))


def test_two_processes_that_commit_the_same_unit_leave_one_record_and_know_which(tmp_path: Path) -> None:
    """Both write, and wait for each other before every round, so that their commits overlap."""
    rounds = 20
    ledger, told = Ledger(tmp_path, "pose", "f" * 64), _in_two_processes(_commit_often, tmp_path, rounds)
    assert told[0] == told[1] == [read.digest for unit in ledger.units() if (read := ledger.read(unit))]
    assert list(ledger.units()) == [f"u{n:06d}" for n in range(rounds)]
    for unit in ledger.units():
        found = ledger.read(unit)
        assert found is not None and found.outcomes == OUTCOMES
        assert ledger.artifact(unit).read_bytes() in (b"same" * 1000, b"content of 0", b"content of 1")
    assert not list(ledger.staging.iterdir()) and not list(ledger.folder.rglob("*.partial"))


def _in_two_processes(work: Any, *arguments: Any) -> list[list[str]]:
    """What `work(*arguments, barrier, who)` gives in each of two processes."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.SimpleQueue()
    both = [spawn.Process(target=_run, args=(work, arguments, barrier, who, results)) for who in range(2)]
    for one in both:
        one.start()
    told = dict(results.get() for _ in both)
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    return [told[0], told[1]]


def _run(work: Any, arguments: tuple[Any, ...], barrier: Any, who: int, results: Any) -> None:
    results.put((who, work(*arguments, barrier, who)))


def _commit_often(work: Path, rounds: int, barrier: Any, who: int) -> list[str]:
    """Even units have the same content from both, as the same code on the same inputs; odd ones do not."""
    ledger, told = Ledger(work, "pose", "f" * 64), []
    for n in range(rounds):
        barrier.wait(60)
        content = b"same" * 1000 if n % 2 == 0 else f"content of {who}".encode()
        told.append(commit(ledger, f"u{n:06d}", content).digest)
    return told


def test_two_processes_that_retry_the_same_unit_replace_it_once(tmp_path: Path) -> None:
    """Each has read the first record before either commits."""
    ledger, rounds = Ledger(tmp_path, "pose", "f" * 64), 20
    for n in range(rounds):
        commit(ledger, f"u{n:06d}", b"failed")
    told = _in_two_processes(_retry_often, tmp_path, rounds)
    assert told[0] == told[1] == [read.digest for unit in ledger.units() if (read := ledger.read(unit))]
    assert {ledger.artifact(unit).read_bytes() for unit in ledger.units()} <= {b"content of 0", b"content of 1"}


def _retry_often(work: Path, rounds: int, barrier: Any, who: int) -> list[str]:
    ledger, told = Ledger(work, "pose", "f" * 64), []
    for n in range(rounds):
        known = ledger.read(f"u{n:06d}")
        assert known is not None
        barrier.wait(60)
        told.append(commit(ledger, f"u{n:06d}", f"content of {who}".encode(), replaces=known.digest).digest)
        barrier.wait(60)
    return told


def test_a_commit_killed_at_any_step_is_whole_or_absent(tmp_path: Path) -> None:
    """Before every change to a file in turn: the unit's record is the old one or the new one, never a part."""
    steps = 0

    def ledger(n: int) -> Ledger:
        return Ledger(tmp_path / str(n), "pose", "f" * 64)

    def work(n: int) -> None:
        commit(ledger(n), content=b"new", inputs="j")
        ledger(n).find("u000000", "j", activate=True)

    commit(ledger(0), content=b"old")
    for n, killed in at_every_change(work, lambda n: str(tmp_path / str(n))):
        found = ledger(n).read("u000000")
        assert found is not None and (found.inputs, ledger(n).artifact("u000000").read_bytes()) in (
            ("i", b"old"),
            ("j", b"new"),
        )
        assert killed or ledger(n).find("u000000", "j") is not None
        commit(ledger(n), content=b"new", inputs="j")
        again = ledger(n).find("u000000", "j", activate=True)
        assert again is not None and again.inputs == "j" and ledger(n).artifact("u000000").read_bytes() == b"new"
        commit(ledger(n + 1), content=b"old")
        steps += killed
    assert steps >= 3
