"""Places that cannot be written to: told before the work, in one line, and figures of a run of others are not lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support import motion_files
from tests.support.tiny_dataset import build
from tests.training.test_runs import made
from training.data.formats import open_dataset, ranges, shard_index
from training.runs.train import train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with motions, and a run on them."""
    folder = tmp_path_factory.mktemp("places")
    motion_files.write(folder / "motions.npz")
    train(made(folder / "motions.npz", run={"epochs": 1}), folder / "run")
    return folder


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if somebody else owned a folder."""
    own = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (mode & os.W_OK and Path(path) == folder) and own(path, mode)
    )


@pytest.mark.parametrize(
    "verb",
    ["predict run --to ro/x.csv", "embed run --to ro/a/x.parquet", "rank run --to ro/x.csv", "check run --to ro/x.csv",
     "export run --to ro/x.onnx", "fuse run run --to ro/x.csv"],
)  # fmt: skip
def test_a_table_that_cannot_be_written_is_told_before_the_work(
    verb: str, place: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "ro").mkdir(exist_ok=True)
    refuse(monkeypatch, place / "ro")
    code, out, err = call(*verb.split())
    assert code == 1 and not out and err.count("\n") == 1, err
    assert "storage_failed: Permission denied (ro/" in err and "another place" in err


def test_figures_of_a_run_of_others_are_written_elsewhere(
    place: Path, call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(monkeypatch, place / "run")
    code, out, err = call("probe", place / "run", "--no-floors", "--device", "cpu")
    assert code == 0, err
    (found,) = tmp_path.glob("measured/run-*/motions-*/probe.json")
    assert "linear probe" in out and str(found.relative_to(tmp_path)) in out
    assert f"{place / 'run'} may not be written to: its figures are written to measured/run-" in err
    assert not (place / "run" / "measured").exists()


@pytest.mark.parametrize("output", ["onnx", "torchscript", "safetensors"])
def test_a_disk_that_is_full_is_not_the_networks_fault(
    output: str, place: Path, call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = call("export", place / "run", "--format", output, "--to", tmp_path / "x")
    assert code == 1 and "disk_full: No space left on device" in err and "cannot be exported" not in err
    assert not list(tmp_path.iterdir())


def test_shards_are_read_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = str(next(build(tmp_path, clips=4).glob("shards/pose/train-*.tar")))

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(shard_index, "write_durably", denied)
    assert len(open_dataset(shard)) == 2
    kept = ranges.Cache(tmp_path / "none", 1 << 20, "")
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.warns(UserWarning, match=r"is not kept in .*none \(permission denied\), and read again each time"):
        kept.store("http://x", {0: b"x"})
    assert kept.load("http://x", [0]) == {}


def test_the_index_of_shards_that_is_damaged_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAENGINE_CACHE", str(tmp_path / "cache"))
    shard = str(next(build(tmp_path, clips=4).glob("shards/pose/train-*.tar")))
    whole = open_dataset(shard)
    (index,) = (tmp_path / "cache").glob("*.parquet")
    index.write_bytes(index.read_bytes()[:100])
    assert open_dataset(shard).keys == whole.keys
