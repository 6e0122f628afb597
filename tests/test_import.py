"""`dataengine import`: what other programs saved becomes a dataset like any other."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import dataengine
from dataengine.builder import rewrite_and_clean
from dataengine.cli import app
from dataengine.core.errors import DataEngineError, EnvironmentFailure
from dataengine.core.skeletons import convert
from dataengine.dataset.takedown import takedown
from dataengine.dataset.verify import verify
from dataengine.exports.run import export
from dataengine.importer import class_names, import_poses
from dataengine.inspect.explain import explain
from dataengine.inspect.view import view
from tests.support.saved_poses import (
    SIZE,
    note,
    people,
    write_alphapose,
    write_coco,
    write_openpose,
    write_pyskl,
    write_unik,
)

NAMES = ["walk", "sit", "fall", "a class that no clip has"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of six clips, one of nobody, one with a wrong label, and one that repeats an id."""
    folder = tmp_path_factory.mktemp("import")
    notes: list[Any] = [note(k, fps="25/1") for k in range(6)]
    notes += [note(6, keypoint=np.zeros((0, 20, 17, 2)), keypoint_score=None), note(7, label="jump"), note(0)]
    write_pyskl(folder / "a.pkl", notes)
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    result = import_poses(folder / "a.pkl", "pyskl", folder / "out", classes=folder / "classes.txt")
    assert (result.planned, result.kept, result.rejected, result.failed) == (9, 6, 3, 0)
    assert result.reasons == {"no_person": 1, "bad_row": 1, "duplicate_id": 1}
    return folder / "out"


def test_the_dataset_holds_what_was_saved(imported: Path) -> None:
    assert verify(imported) == []
    ds = dataengine.open(imported)
    clips = ds.clips.sort("clip_id").collect()
    assert clips["saved_as"].to_list() == [f"clip{k}" for k in range(6)]
    assert clips["label"].to_list() == [NAMES[k % 3] for k in range(6)]
    assert clips["label_id"].to_list() == [k % 3 for k in range(6)]
    assert clips["split"].to_list() == ["train", "val"] * 3 and clips["fps"].to_list() == ["25/1"] * 6
    assert clips["num_people"].to_list() == [2] * 6 and clips["width"].to_list() == [SIZE[0]] * 6
    assert clips["motion"].null_count() == 0 and clips["people_left_out"].sum() == 0
    assert ds.manifest["experts"] == [] and ds.manifest["skeleton"] == "coco17"
    for number, clip_id in enumerate(clips["clip_id"].to_list()):
        points, scores = people(number)
        sample = ds.sample(clip_id)
        assert np.array_equal(sample["keypoints"], points, equal_nan=True)
        assert np.array_equal(sample["scores"], np.where(np.isfinite(points).all(-1), scores, 0).astype(np.float16))
    rejects = {row["reason"]: row for row in ds.rejects.collect().to_dicts()}
    assert rejects["bad_row"]["detail"].startswith("label of annotation 7 is 'jump' (str); allowed: a whole number")
    assert all(row["pass"] == "plan" and not row["retryable"] for row in rejects.values())


def test_it_is_explained_viewed_and_trained_on(imported: Path, tmp_path: Path) -> None:
    clip_id = dataengine.open(imported).clips.sort("clip_id").collect()["clip_id"][2]
    steps = {step["pass"]: step for step in explain(imported, clip_id)["passes"]}
    assert steps["imported"]["facts"]["saved_as"] == "clip2" and steps["pack"]["outcome"] == "keep"
    assert "probe" not in steps and "pose" not in steps
    assert view(imported, clip_id, tmp_path / "v.png").stat().st_size > 1000
    assert (imported / "dataset" / "report.html").read_text().count("data:image/jpeg") >= 6
    pytest.importorskip("torch")
    from training.data.formats import open_dataset

    dataset = open_dataset(imported, split="train")
    assert dataset.labels == tuple(NAMES[:3]) and dataset.label_ids.tolist() == [0, 2, 1]
    assert np.array_equal(dataset.read([1])[0].keypoints, people(2)[0], equal_nan=True)


def test_the_same_file_gives_the_same_bytes_and_is_not_read_again(imported: Path, tmp_path: Path) -> None:
    folder = imported.parent
    arguments: dict[str, Any] = {"classes": folder / "classes.txt"}
    assert not import_poses(folder / "a.pkl", "pyskl", imported, **arguments).changed
    (tmp_path / "b.pkl").write_bytes((folder / "a.pkl").read_bytes())
    import_poses(tmp_path / "b.pkl", "pyskl", tmp_path / "other", **arguments)
    files = [
        p.relative_to(imported) for p in (imported / "dataset").rglob("*") if p.is_file() and "report" not in p.name
    ]
    assert len(files) > 7
    for path in files:
        assert (imported / path).read_bytes() == (tmp_path / "other" / path).read_bytes(), path


def test_filters_and_skeleton_are_a_recipes(imported: Path, tmp_path: Path) -> None:
    path = imported.parent / "a.pkl"
    result = import_poses(
        path, "pyskl", tmp_path / "out", filters=["length"],
        overrides=["filters.length.min=21", 'pose.skeleton="posetics17"', "report.gallery=0"],
    )  # fmt: skip
    assert result.kept == 0 and result.reasons["length"] == 6
    result = import_poses(
        path, "pyskl", tmp_path / "out", recipe="posecap", overrides=['pose.skeleton="posetics17"', "report.gallery=0"]
    )
    assert result.kept + sum(result.reasons.values()) == 9 and result.kept
    ds = dataengine.open(tmp_path / "out")
    row = ds.clips.collect().to_dicts()[0]
    wanted, _ = convert(people(int(row["saved_as"][4:]))[0], None, "coco17", "posetics17")
    np.testing.assert_allclose(ds.sample(row["clip_id"])["keypoints"], wanted, atol=1e-4)
    assert row["label_id"] == int(row["label"])


FORMS = ["openpose", "alphapose", "coco", "unik"]


@pytest.mark.parametrize("form", FORMS)
def test_people_of_every_format_are_linked_and_kept(tmp_path: Path, form: str) -> None:
    path, layout = tmp_path / "saved", {"openpose": "openpose25", "unik": "posetics17"}.get(form, "coco17")
    points, scores = people(0, layout=layout)
    if form == "openpose":
        write_openpose(path, "walk", points, scores)
    elif form == "alphapose":
        write_alphapose(path / "walk" / "alphapose-results.json", points, scores, numbered=False)
    elif form == "coco":
        path = write_coco(tmp_path / "saved.json", {"walk": (points, scores)})
    else:
        write_unik(path)
    result = import_poses(path, form, tmp_path / "out", size=SIZE, overrides=["report.gallery=0"])
    ds = dataengine.open(tmp_path / "out")
    assert result.kept == result.planned and not result.failed
    row = ds.clips.sort("clip_id").collect().to_dicts()[0]
    sample = ds.sample(row["clip_id"])["keypoints"]
    assert sample.shape == points.shape and row["people_left_out"] == 0
    order = np.argsort(np.nanmean(sample[..., 0], (1, 2)))
    np.testing.assert_allclose(sample[order], points, atol=1e-2)
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.pkl", "--format", "pyskl"], "there is no such file or folder"),
        (["a.pkl", "--format", "pysckl"], "--format 'pysckl' (did you mean 'pyskl'?)"),
        (["a.pkl", "--format", "pyskl", "--size", "big"], "--size 'big': give WIDTHxHEIGHT"),
        (["a.pkl", "--format", "pyskl", "--layout", "coco71"], "unknown skeleton 'coco71' (did you mean 'coco17'?)"),
        (["a.pkl", "--format", "pyskl", "--fps", "0"], "--fps 0: give frames per second from 0.001 to 1000"),
        (["a.pkl", "--format", "pyskl", "--fps", "0.0004"], "--fps 0.0004: give frames per second from 0.001 to 1000"),
        (["a.pkl", "--format", "pyskl", "--size", "99999999999x9"], "99999999999x9: a side has 1 to 524288 pixels"),
        (["a.pkl", "--format", "pyskl", "--split", "trian"], "split"),
        (["a.pkl", "--format", "pyskl", "--filters", "camera_cut"], "it measures pictures, and saved poses have none"),
        (["a.pkl", "--format", "pyskl", "--filters", "lenght"], "'lenght' in filters (did you mean 'length'?)"),
        (["a.pkl", "--format", "pyskl", "--set", "pack.keep_video=true"], "keep_video = True needs videos"),
        (["a.pkl", "--format", "pyskl", "--set", 'pose.experts=["vitpose"]'], "needs videos"),
        (["a.pkl", "--format", "pyskl", "--classes", "no.txt"], "--classes no.txt: cannot be read"),
        (["a.pkl", "--format", "coco"], "torn or no JSON"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pyskl(tmp_path / "a.pkl", [note(0)])
    answer = CliRunner().invoke(app, ["import", *arguments, "--out", "out"])
    assert isinstance(answer.exception, DataEngineError), answer.output
    assert message in str(answer.exception) and "\n" not in str(answer.exception)
    assert not (tmp_path / "out" / "dataset").exists()
    assert not (tmp_path / "out").exists(), "nothing is left that looks like a build"


def test_a_full_disk_is_told_with_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dataengine.sources.imported.Imported.spool", full)
    with pytest.raises(
        EnvironmentFailure, match=r"No space left on device \(.*out, .* MB free\); run the same command"
    ):
        import_poses(write_pyskl(tmp_path / "a.pkl", [note(0)]), "pyskl", tmp_path / "out")


def test_what_cannot_be_read_is_not_blamed_on_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(0)])

    def refuse(*_: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("dataengine.sources.imported.spool.stamp", refuse)
    with pytest.raises(DataEngineError, match=r"a\.pkl: cannot be read: Permission denied"):
        import_poses(path, "pyskl", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "it is empty"), ("a\n\nb", "a line is empty"), ("a\nb\na", "'a' stands twice"), ("\n\n", "it is empty")],
)
def test_names_of_classes_are_checked(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(content)
    with pytest.raises(DataEngineError, match=message):
        class_names(path)
    (tmp_path / "classes.json").write_text(json.dumps(["a", "b"]))
    assert class_names(tmp_path / "classes.json") == ["a", "b"]
    path.write_bytes("\ufeffwalk\r\nsit \r\n".encode())
    assert class_names(path) == ["walk", "sit"]


ROUND = {"pyskl": {}, "coco": {}, "unik": {"layout": "coco17"}, "openpose": {}, "alphapose": {}}


@pytest.mark.parametrize("form", ROUND)
def test_what_was_exported_is_imported_again(imported: Path, tmp_path: Path, form: str) -> None:
    ends = {"pyskl": "a.pkl"}.get(form, "folder")
    export(imported, form, tmp_path / ends, unknown_licence=True, **ROUND[form])
    again = tmp_path / "out"
    layout = {"layout": "coco17"} if form == "unik" else {}
    result = import_poses(tmp_path / ends, form, again, overrides=["report.gallery=0"], **layout)
    assert (result.planned, result.kept) == (6, 6), result.reasons
    first, second = dataengine.open(imported), dataengine.open(again)
    before = first.clips.sort("clip_id").collect()
    after = second.clips.collect().with_columns(name=pl.col("saved_as").str.split("/").list.last()).sort("name")
    assert after["name"].to_list() == before["clip_id"].to_list()
    for column in ("label", "label_id", "split", "fps", "width", "height", "num_frames", "num_people"):
        assert after[column].to_list() == before[column].to_list(), column
    for old, new in zip(before["clip_id"].to_list(), after["clip_id"].to_list()):
        given, found = first.sample(old), second.sample(new)
        wanted = given["keypoints"]
        if form == "openpose":
            wanted = convert(wanted, None, "coco17", "openpose25")[0]
        np.testing.assert_allclose(found["keypoints"], wanted, atol=0.02)
        if form == "pyskl":
            assert np.array_equal(found["keypoints"], wanted, equal_nan=True)
            assert np.array_equal(found["scores"], given["scores"])
        elif form in ("coco", "alphapose"):
            np.testing.assert_allclose(found["scores"], given["scores"], atol=1e-3)


def test_what_was_taken_down_leaves_the_intermediates_too(tmp_path: Path) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(k) for k in range(3)])
    out = tmp_path / "out"
    import_poses(path, "pyskl", out, overrides=["report.gallery=0"])
    secret = np.nan_to_num(people(1)[0])[0, 5].tobytes()  # a frame of the person, as it is stored
    assert any(secret in file.read_bytes() for file in (out / "work" / "media").rglob("*.tar"))
    takedown(out, ["imported-clip1-0-667"], "consent withdrawn")
    rewrite_and_clean(out)
    assert not any(secret in file.read_bytes() for file in out.rglob("*") if file.is_file())
    result = import_poses(path, "pyskl", out, overrides=["report.gallery=0"])
    assert (result.kept, result.reasons) == (2, {"takedown": 1}) and verify(out) == []
