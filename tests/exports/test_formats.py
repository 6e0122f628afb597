"""What every format promises: whole or absent, the same bytes again, no clip taken down, nobody's files overwritten."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dataengine
from dataengine.core import registry
from dataengine.core.errors import ComponentError, DataEngineError, DatasetError, EnvironmentFailure
from dataengine.core.skeletons import skeleton
from dataengine.dataset.index import write_tombstones
from dataengine.exports import base, hf, placing
from dataengine.exports import run as exports
from dataengine.exports.layouts import converted, copies
from tests.support import tiny_dataset
from tests.support.commands import dataengine as command

FORMATS = registry.names("exports")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of 8 clips, as a build has it; read only."""
    folder = tmp_path_factory.mktemp("exported")
    tiny_dataset.build(folder)
    return folder


def content(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def clip_ids(path: Path) -> set[str]:
    """Ids of clips that occur anywhere in an export, names of files included."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    if path.name == "hf":
        return set(pl.scan_parquet(path / "data" / "*.parquet").collect()["clip_id"])
    found = b"".join(str(file).encode() + file.read_bytes() for file in files)
    known = [f"random-video{number:03d}-" for number in range(20)]
    return {one for one in known if one.encode() in found}


def test_formats_are_listed() -> None:
    assert set(FORMATS) >= {"pyskl", "coco", "unik", "hf", "openpose", "alphapose", "energon"}
    told = command("list", "exports", "-v").stdout
    assert all(name in told for name in FORMATS) and "layout" in told


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_bytes_again_and_nothing_left_beside(name: str, out: Path, tmp_path: Path) -> None:
    made = [dataengine.export(out, name, tmp_path / str(n) / "x", unknown_licence=True) for n in range(2)]
    assert content(Path(made[0].path)) == content(Path(made[1].path))
    assert made[0].clips == 8 and made[0].splits == {"train": 4, "val": 4}
    assert made[0].licences == {"CC-BY-4.0": 4, "CC0": 4} and made[0].left_out == {}
    assert made[0].files == len(content(Path(made[0].path)))
    assert [p.name for p in (tmp_path / "0").iterdir()] == ["x"]


@pytest.mark.parametrize("name", FORMATS)
def test_one_clip_at_a_time(name: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = [0]

    class Counted(base.ExportedClip):
        __hash__ = object.__hash__

        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            alive.add(self)
            most[0] = max(most[0], len(alive))

    monkeypatch.setattr(exports, "ExportedClip", Counted)
    monkeypatch.setattr(hf, "GROUP_BYTES", 1)
    dataengine.export(out, name, tmp_path / "x")
    assert 1 <= most[0] <= 3


@pytest.mark.parametrize("name", FORMATS)
def test_takedowns_are_honoured(name: str, tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path)
    write_tombstones(root, [{"clip_id": dataengine.open(root).clips.collect()["clip_id"][3], "reason": "asked"}])
    made = dataengine.export(tmp_path, name)
    assert Path(made.path).parent == tmp_path / "exports" and made.clips == 7
    found = clip_ids(Path(made.path))
    assert len(found) == 7 and not any("video003" in one for one in found)


def test_a_takedown_names_what_was_exported_before(tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path)
    made = dataengine.export(tmp_path, "coco").path
    gone = dataengine.open(root).clips.collect()["clip_id"][0]
    done = command("takedown", str(tmp_path), "--clip-id", gone, "--reason", "asked")
    assert done.returncode == 0 and f"note: {made} was exported before and may hold them" in done.stderr
    assert dataengine.export(tmp_path, "coco", replace=True).clips == 7


def test_a_takedown_during_an_export_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_dataset.build(tmp_path)
    gone = dataengine.open(root).clips.collect()["clip_id"][0]
    from dataengine.exports.pyskl import Pyskl

    def slow(self: Pyskl, place: Path, job: base.ExportJob) -> None:
        write_tombstones(root, [{"clip_id": gone, "reason": "asked"}])
        original(self, place, job)

    original = Pyskl.write
    monkeypatch.setattr(Pyskl, "write", slow)
    with pytest.raises(DatasetError, match="takedown while the export ran: run the same command again"):
        dataengine.export(tmp_path, "pyskl")
    assert not list((tmp_path / "exports").iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_choice_by_split_licence_and_condition(name: str, out: Path, tmp_path: Path) -> None:
    made = dataengine.export(out, name, tmp_path / "a", splits=["val"])
    assert made.splits == {"val": 4} and made.left_out == {"split": 4}
    made = dataengine.export(out, name, tmp_path / "b", licences=["cc0"], where="num_people = 2")
    ids = {row[0][:16] for row in _rows(out, "licence = 'CC0' AND num_people = 2")}
    assert made.licences == {"CC0": len(ids)}
    if name != "hf":
        assert clip_ids(Path(made.path)) == ids


def _rows(out: Path, where: str) -> list[tuple[str]]:
    return [row for frame in dataengine.open(out).batches((), where) for row in frame.rows()]


def test_unknown_licences_and_consents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of = tiny_dataset.rows_of

    def some(clip_id: str, number: int, people: int, frames: int) -> dict[str, Any]:
        row = rows_of(clip_id, number, people, frames) | {"consent": ("yes", "no", None)[number % 3]}
        return row | ({"licence": None} if number < 5 else {})

    monkeypatch.setattr(tiny_dataset, "rows_of", some)
    tiny_dataset.build(tmp_path)
    made = dataengine.export(tmp_path, "coco")
    assert made.licences == {"CC-BY-4.0": 2, "CC0": 1, "unknown": 5}
    assert made.notes[0].startswith("5 of 8 clips have no known licence")
    made = dataengine.export(tmp_path, "hf")
    assert made.clips == 3 and made.left_out == {"unknown_licence": 5} and not made.notes
    assert dataengine.export(tmp_path, "hf", tmp_path / "all", unknown_licence=True).clips == 8
    assert dataengine.export(tmp_path, "unik", consents=["YES"]).left_out == {"consent": 5}
    for options, told in (
        ({"licences": ["GPL"]}, "8 of another licence; --licence GPL was asked for; the clips have CC-BY-4.0, CC0"),
        ({"consents": ["given"]}, "--consent given was asked for; the clips have no, yes"),
        ({"where": "label = 'x'"}, "where=\"label = 'x'\" matches no clip"),
        ({"where": "number_ < 5"}, "cannot be used"),
        ({"splits": ["training"]}, "no split 'training'"),
    ):
        with pytest.raises(DatasetError, match=r".") as caught:
            dataengine.export(tmp_path, "pyskl", **options)  # type: ignore[arg-type]
        assert told in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="5 of unknown licence; --unknown-licence exports") as caught:
        dataengine.export(tmp_path, "hf", tmp_path / "none", where="licence IS NULL")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_foreign_is_overwritten(name: str, out: Path, tmp_path: Path) -> None:
    target = tmp_path / "x"
    dataengine.export(out, name, target)
    before = content(target)
    with pytest.raises(DatasetError, match="is there already"):
        dataengine.export(out, name, target)
    dataengine.export(out, name, target, replace=True, splits=["val"])
    assert content(target) != before
    if target.is_dir():
        (target / "notes.txt").write_text("mine")
        with pytest.raises(DatasetError, match=r"it also holds 'notes.txt'"):
            dataengine.export(out, name, target, replace=True)
        assert (target / "notes.txt").read_text() == "mine"
    (tmp_path / "0").write_text("mine")
    with pytest.raises(DatasetError, match="is not replaced: it is no"):
        dataengine.export(out, name, tmp_path / "0", replace=True)
    if not registry.find("exports", name).suffix:  # a file is put into a folder
        (tmp_path / "1").mkdir()
        with pytest.raises(DatasetError, match=r"is not replaced: it has no EXPORT.json"):
            dataengine.export(out, name, tmp_path / "1", replace=True)
    with pytest.raises(DatasetError, match="is a file: no folder can be made in it"):
        dataengine.export(out, name, tmp_path / "0" / "x")
    with pytest.raises(DatasetError, match="lies in the dataset"):
        dataengine.export(out, name, out / "dataset" / "x")


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    name: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = registry.find("exports", name)
    write = cls.write

    def full(self: Any, place: Path, job: base.ExportJob) -> None:
        write(self, place, job)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cls, "write", full)
    with pytest.raises(EnvironmentFailure, match="No space left on device") as caught:
        dataengine.export(out, name, tmp_path / "x")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_wrong_choice_is_told_of_before_a_former_export(out: Path, tmp_path: Path) -> None:
    dataengine.export(out, "coco", tmp_path / "there")
    with pytest.raises(DatasetError, match="nope"):
        dataengine.export(out, "coco", tmp_path / "there", where="nope > 1")


@pytest.mark.parametrize("name", ["coco", "pyskl"])
def test_builds_and_datasets_hold_no_exports(name: str, out: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    build.mkdir()
    (build / "recipe.lock.toml").touch()
    for place in (build, Path(dataengine.open(out).root)):
        with pytest.raises(DatasetError, match=r"holds its own files alone"):
            dataengine.export(out, name, place)
    with pytest.raises(DatasetError, match=r"--to '' names no place"):
        dataengine.export(out, name, "")


def test_a_place_that_cannot_be_is_one_line(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFailure, match=r"File name too long"):
        dataengine.export(out, "coco", tmp_path / ("x" * 300))

    if Path("/proc/self").exists():
        with pytest.raises((DatasetError, EnvironmentFailure), match=r"/proc"):
            dataengine.export(out, "coco", "/proc/x")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(EnvironmentFailure, match=r"Permission denied"):
        dataengine.export(out, "coco", tmp_path / "y")


def test_arrays_that_do_not_fit_are_told_before_any_work(out: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"disk_full: arrays of 8 clips .* are free"):
        dataengine.export(out, "unik", tmp_path / "x", frames=10**9)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_export_and_the_next_one_cleans_up(out: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time, dataengine\n"
        "from dataengine.exports.coco import Coco\n"
        "write = Coco.write\n"
        "def slow(self, place, job):\n"
        "    write(self, place, job); print('written', flush=True); time.sleep(600)\n"
        "Coco.write = slow\n"
        "dataengine.export(sys.argv[1], 'coco', sys.argv[2])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out), str(tmp_path / "x")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        dataengine.export(out, "coco", tmp_path / "y")
        assert len(left := [p for p in tmp_path.iterdir() if p.name.startswith(".x.")]) == 1
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "x").exists() and left[0].exists()
    dataengine.export(out, "coco", tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "y"]


def test_records_say_what_is_there(out: Path, tmp_path: Path) -> None:
    made = dataengine.export(out, "openpose", tmp_path / "x", licences=["CC0"], layout="openpose18")
    record = json.loads((tmp_path / "x" / placing.RECORD).read_text())
    assert record["format"] == "openpose" and record["options"] == {"layout": "openpose18"}
    assert record["joints"] == list(skeleton("openpose18").joints) and record["layout"] == made.layout
    assert record["label_names"] == list(tiny_dataset.LABELS)
    assert record["choice"] == {"licences": ["CC0"], "unknown_licence": True}
    assert record["licences"] == {"CC0": 4} and record["dataset"]["fingerprint"] == "0" * 64
    facts = pl.read_csv(tmp_path / "x" / "clips.csv")
    assert facts.columns == list(base.FACTS) and set(facts["licence"]) == {"CC0"} and set(facts["width"]) == {320}


def test_options_are_checked(out: Path, tmp_path: Path) -> None:
    for name, options, told in (
        ("openpose", {"layout": "coco17"}, "layout = 'coco17'; allowed: openpose18, openpose25"),
        ("pyskl", {"layout": "coco_17"}, "did you mean 'coco17'"),
        ("coco", {"every": 0}, "greater than or equal to 1"),
        ("coco", {"evry": 1}, "has no option 'evry'"),
        ("cocoo", {}, "unknown name 'cocoo' in exports (did you mean 'coco'?)"),
    ):
        with pytest.raises(ComponentError, match=r".") as caught:
            dataengine.export(out, name, tmp_path / "x", **options)  # type: ignore[arg-type]
        assert told in str(caught.value) and "\n" not in str(caught.value)
    assert exports.options_of("coco", ["every=3", "layout=own"]) == {"every": 3, "layout": "own"}
    with pytest.raises(DatasetError, match="give KEY=VALUE"):
        exports.options_of("coco", ["every"])


def test_the_command(out: Path, tmp_path: Path) -> None:
    done = command("export", str(out), "--format", "pyskl", "--to", str(tmp_path / "a.pkl"), "--split", "val", "--json")
    told = json.loads(done.stdout)
    assert told["clips"] == 4 and told["path"] == str(tmp_path / "a.pkl") and told["layout"] == "coco17"
    done = command("export", str(out), "--format", "coco", "--to", str(tmp_path / "b"), "--set", "every=2")
    assert done.stdout.splitlines()[1].startswith("8 clips (4 train, 4 val) of layout coco17, 3 files")
    assert "export 8/8 clips" in done.stderr
    done = command("export", str(out), "--format", "coco", "--to", str(tmp_path / "b"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "is there already" in done.stderr


def test_a_dataset_without_a_build_wants_a_place(out: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").symlink_to(out / "dataset")
    with pytest.raises(DataEngineError, match="give --to PATH"):
        dataengine.export(tmp_path / "copy", "coco")


def test_copies_of_the_head_point_are_known() -> None:
    names = [skeleton("coco17").joints[number] for number in copies("posetics17", "coco17")]
    assert names == ["left_eye", "right_eye", "left_ear", "right_ear"]
    assert copies("blazepose33", "coco17") == () and copies("coco17", "posetics17") == ()
    rng = np.random.default_rng(0)
    keypoints, scores = rng.uniform(1, 9, (2, 3, 17, 2)), rng.uniform(0.1, 1, (2, 3, 17))
    coords, found = converted(keypoints, scores, "posetics17", "coco17", keep_copies=False)
    assert np.isnan(coords[:, :, 1:5]).all() and (found[:, :, 1:5] == 0).all()
    assert np.array_equal(coords[:, :, 5:], keypoints[:, :, 5:].astype(np.float32))
    kept, _ = converted(keypoints, scores, "posetics17", "coco17", keep_copies=True)
    assert np.array_equal(kept[:, :, 1], kept[:, :, 0])


def test_conditions_see_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition with an aggregate means the whole dataset, however many parts are read."""
    from dataengine.dataset import dataset as reader
    from dataengine.dataset import index

    monkeypatch.setattr(index, "PART_ROWS", 3)
    monkeypatch.setattr(reader, "GROUP_ROWS", 2)
    root = tiny_dataset.build(tmp_path)
    ds = dataengine.open(root)
    assert len(list((root / "index" / "clips").iterdir())) == 3
    write_tombstones(root, [{"clip_id": ds.clips.collect()["clip_id"][0], "reason": "asked"}])
    whole = ds.clips.collect()
    where = "confidence_mean > (SELECT AVG(confidence_mean) FROM clips)"
    mean = float(whole["confidence_mean"].mean())  # type: ignore[arg-type]
    wanted = whole.filter(pl.col("confidence_mean") > mean)["clip_id"].to_list()
    try:
        found = [row for frame in ds.batches((), where) for row in frame["clip_id"]]
    except DatasetError:
        pytest.skip("this Polars has no scalar subqueries")
    assert found == wanted
    rows = pl.concat(list(ds.batches(("shard", "offset", "entries"))))
    assert rows["clip_id"].to_list() == whole["clip_id"].to_list()
    for sample in ds.read(rows):
        assert np.array_equal(sample["keypoints"], ds.sample(sample["clip_id"])["keypoints"], equal_nan=True)
