"""Source `imported`: what other programs saved is read into one form, and what cannot be taken is a row with a
reason."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core.errors import DataEngineError, SourceError
from dataengine.core.types import Clip
from dataengine.io import shards
from dataengine.sources.imported import Imported, json_stream, people_lists, saved_clip
from dataengine.sources.imported.pyskl import split_set
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


def spooled(folder: Path, path: Path, form: str, **options: Any) -> tuple[list[Clip], dict[str, Any], dict[str, Any]]:
    """The clips of a source, its facts, and the entries of its clips by id."""
    source = Imported(file=str(path), format=form, **options)  # type: ignore[arg-type]
    root = source.prepare(folder / "cache")
    clips = list(source.discover(root))
    held = {}
    for part in {clip.media for clip in clips if clip.media}:
        held |= {key: shards.decode(entries) for key, entries in shards.iterate(root / part)}
    assert {clip.clip_id for clip in clips if clip.reason is None} == held.keys()
    return clips, source.facts(root), held


def reasons(clips: list[Clip]) -> dict[str, int]:
    found: dict[str, int] = {}
    for clip in clips:
        found[clip.reason or "taken"] = found.get(clip.reason or "taken", 0) + 1
    return found


def test_a_pyskl_pickle_is_taken_whole(tmp_path: Path) -> None:
    notes = [note(k) for k in range(5)]
    clips, facts, held = spooled(
        tmp_path, write_pyskl(tmp_path / "a.pkl", notes, classes=["run", "sit", "fall"]), "pyskl"
    )
    assert [clip.file for clip in clips] == [f"clip{k}" for k in range(5)] and facts["layout"] == "coco17"
    assert [clip.split for clip in clips] == ["train", "val", "train", "val", "train"]
    assert facts["classes"] == ["run", "sit", "fall"] and [clip.label for clip in clips] == ["0", "1", "2", "0", "1"]
    for number, clip in enumerate(clips):
        points, scores = people(number)
        entries = held[clip.clip_id]
        assert np.array_equal(entries["keypoints"], points, equal_nan=True)
        assert np.array_equal(entries["scores"], np.where(np.isfinite(points).all(-1), scores, 0))
        assert (entries["json"]["width"], entries["json"]["height"]) == SIZE and entries["json"]["num_frames"] == 20
        assert clip.clip_id == f"imported-clip{number}-0-667" and (clip.start, clip.end) == (0.0, 20 / 30)


WRONG: dict[str, tuple[Any, str, str]] = {
    "text": ({"label": "jump"}, "bad_row", "label of annotation 1 is 'jump'"),
    "list": ({"label": [1, 2]}, "bad_row", r"label of annotation 1 is \[1, 2\]"),
    "none": ({"label": None}, "bad_row", "label of annotation 1 is None"),
    "huge": ({"label": 10**9}, "bad_row", "label of annotation 1 is 1000000000, too large"),
    "uint": ({"label": np.uint32(2**32 - 1)}, "bad_row", "label of annotation 1 is 4294967295, too large"),
    "nobody": ({"keypoint": np.zeros((0, 20, 17, 2)), "keypoint_score": None}, "no_person", "shows nobody"),
    "no frames": ({"keypoint": np.zeros((1, 0, 17, 2)), "keypoint_score": None}, "no_person", "shows nobody"),
    "zeros": ({"keypoint": np.zeros((1, 20, 17, 2)), "keypoint_score": None}, "no_person", "shows nobody"),
    "no scores": ({"keypoint_score": np.zeros((2, 20, 17))}, "no_person", "shows nobody"),
    "other scores": ({"keypoint_score": np.zeros(3)}, "bad_row", r"keypoint_score is float64 \(3,\)"),
    "three axes": ({"keypoint": np.zeros((20, 17, 2))}, "bad_row", r"keypoint is float64 \(20, 17, 2\)"),
    "text keypoint": ({"keypoint": np.array([["a"]])}, "bad_row", "keypoint is <U1"),
    "no array": ({"keypoint": None}, "bad_row", "has no array 'keypoint'"),
    "3d": ({"keypoint": np.full((1, 9, 17, 3), 1.5), "keypoint_score": None}, "bad_row", "3 coordinates"),
    "joints": ({"keypoint": np.ones((1, 9, 21, 2)), "keypoint_score": None}, "bad_row", "21 joints, the layout coco17"),
    "repeated": ({"frame_dir": "clip0"}, "duplicate_id", "'clip0' stands at an earlier annotation"),
    "far": ({"keypoint": np.full((1, 9, 17, 2), 1e30), "keypoint_score": None}, "bad_row", "640x480 or near it"),
    "negative": ({"keypoint": np.full((1, 9, 17, 2), -50.0), "keypoint_score": None}, "bad_row", "from -50 to -50"),
    "fps": ({"fps": "fast"}, "bad_row", "frame rate is 'fast'"),
    "huge fps": ({"fps": "1e30000000"}, "bad_row", "frame rate is '1e30000000'"),
    "long fps": ({"fps": 10**5000}, "bad_row", "frame rate is 'a number of more than 40 digits'"),
    "no name": ({"frame_dir": np.zeros((2, 2)), "keypoint": None}, "bad_row", "annotation 1 has no array"),
    "size": ({"img_shape": np.array(3), "label": "a"}, "bad_row", "label of annotation 1"),
    "beyond float32": ({"keypoint": np.full((1, 9, 17, 2), 1e300), "keypoint_score": None}, "no_person", "nobody"),
    "slow fps": ({"fps": 0.0004}, "bad_row", "frame rate is '0.0004'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_annotation_that_cannot_be_taken_is_a_row_with_its_reason(tmp_path: Path, name: str) -> None:
    change, reason, detail = WRONG[name]
    path = write_pyskl(tmp_path / "a.pkl", [note(0), note(1) | change, note(2)], split=None)
    clips, _, held = spooled(tmp_path, path, "pyskl")
    assert len(clips) == 3 and len(held) == 2 and [clip.reason for clip in clips] == [None, reason, None]
    assert clips[1].detail is not None and re.search(detail, clips[1].detail)
    assert "\n" not in clips[1].detail


@pytest.mark.parametrize("bad", [None, 3, "x", {}, []], ids=repr)
def test_what_is_no_annotation_is_a_row(tmp_path: Path, bad: Any) -> None:
    clips, _, _ = spooled(tmp_path, write_pyskl(tmp_path / "a.pkl", [note(0), bad], split=None), "pyskl")
    assert [clip.reason for clip in clips] == [None, "bad_row"]


ODD: list[Any] = [None, 10**400, float("nan"), "\ud800", [], {"a": 1}]
"""What stands in JSON where something else belongs."""
ODD_ARRAYS: list[Any] = [np.array(3), np.zeros((2, 2)), {1}]


def replaced(value: Any, by: list[Any]) -> Iterator[Any]:
    """The value with each of its parts, at any depth, replaced by each of `by`; of lists the first member alone."""
    yield from by
    for key in value if isinstance(value, dict) else [0] if isinstance(value, list) and value else []:
        for other in replaced(value[key], by):
            if isinstance(value, dict):
                yield value | {key: other}
            else:
                yield [other, *value[1:]]


def is_told_in_one_line(folder: Path, path: Path, form: str) -> None:
    """Whatever a file holds, it is taken, or is one line, and warns of nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            source = Imported(file=str(path), format=form)  # type: ignore[arg-type]
            list(source.discover(source.prepare(folder / "cache")))
    except DataEngineError as error:
        assert "\n" not in str(error) and str(error).encode(), str(error)


@pytest.mark.slow
def test_odd_values_in_json_are_told_in_one_line(tmp_path: Path) -> None:
    person = {"image_id": "3.jpg", "keypoints": [4.0, 5.0, 0.5] * 17, "category_id": 1, "idx": 2}
    image = {"id": "3.jpg", "file_name": "a/3.jpg", "width": 9, "height": 9, "video_id": 1, "frame_id": 0}
    video = {"id": 1, "name": "v", "label_id": 0, "split": "val", "fps": 25}
    coco = {"videos": [video], "images": [image], "annotations": [person], "categories": [{"id": 1, "name": "person"}]}
    path = tmp_path / "a.json"
    for form, whole in (("alphapose", [person]), ("coco", coco)):
        for odd in replaced(whole, ODD):
            path.write_text(json.dumps(odd))
            is_told_in_one_line(tmp_path, path, form)
    folder = tmp_path / "openpose"
    folder.mkdir()
    for odd in replaced({"people": [{"person_id": [-1], "pose_keypoints_2d": [4.0, 5.0, 0.5] * 25}]}, ODD):
        (folder / "a_000000000000_keypoints.json").write_text(json.dumps(odd))
        is_told_in_one_line(tmp_path, folder, "openpose")


@pytest.mark.slow
def test_odd_values_in_pickles_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    whole = {"split": {"train": ["clip0"]}, "annotations": [note(0, 1, 2, fps=25)], "layout": "coco17"}
    for odd in replaced(whole, ODD + ODD_ARRAYS):
        path.write_bytes(pickle.dumps(odd))
        is_told_in_one_line(tmp_path, path, "pyskl")
    write_unik(tmp_path, 2)
    for odd in replaced([["a", "b", "c"], [0, 1, 0]], ODD + ODD_ARRAYS):
        (tmp_path / "train_label.pkl").write_bytes(pickle.dumps(odd))
        is_told_in_one_line(tmp_path, tmp_path, "unik")


def test_torn_arrays_are_told_in_one_line(tmp_path: Path) -> None:
    write_unik(tmp_path, 2)
    path = tmp_path / "train_data_joint.npy"
    whole = path.read_bytes()
    for at in range(0, 128, 5):  # the header
        path.write_bytes(whole[:at] + b"(" + whole[at + 1 :])
        is_told_in_one_line(tmp_path, tmp_path, "unik")


def test_splits_of_several_sets(tmp_path: Path) -> None:
    notes = [note(k) for k in range(4)]
    split = {
        "xsub_train": ["clip0", "clip1"],
        "xsub_val": ["clip1", "clip2"],
        "xview_train": ["clip3"],
        "odd": ["clip0"],
    }
    path = write_pyskl(tmp_path / "a.pkl", notes, split=split)
    clips, facts, _ = spooled(tmp_path, path, "pyskl")
    assert [clip.split for clip in clips] == ["train", "val", "val", "train"]
    assert [clip.reason for clip in clips] == [None, None, None, "not_in_split"]
    notes_ = "\n".join(facts["notes"])
    assert "'xsub' is taken; --splits takes another: 'xview'" in notes_ and "'odd' is neither" in notes_
    assert "1 ids stand in several splits, for example 'clip1'; they go to test or val alone" in notes_
    clips, _, _ = spooled(tmp_path, path, "pyskl", splits="xview")
    assert reasons(clips) == {"not_in_split": 3, "taken": 1}
    with pytest.raises(SourceError, match=r"no set of splits 'xwiev' .did you mean 'xview'"):
        spooled(tmp_path, path, "pyskl", splits="xwiev")


def test_spans_of_annotations_are_not_lost_without_a_word(tmp_path: Path) -> None:
    notes = [note(k) for k in range(3)]
    notes[1]["spans"] = np.array([[0, 2, 5]])
    _, facts, _ = spooled(tmp_path, write_pyskl(tmp_path / "a.pkl", notes), "pyskl")
    assert "1 annotations say what happens when ('spans'), which is not imported" in " ".join(facts["notes"])


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [("train", "train", ""), ("val", "val", ""), ("test1", "test", "1"), ("xsub_train", "train", "xsub"),
     ("xset_val", "val", "xset"), ("sub-test", "test", "sub"), ("Training", "train", ""), ("all", None, ""),
     ("trainval", None, "")],
)  # fmt: skip
def test_names_of_splits(name: str, kind: str | None, own: str) -> None:
    assert split_set(name) == (kind, own)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_relative_coordinates_are_scaled(tmp_path: Path, low: float, high: float) -> None:
    notes = [note(k) for k in range(2)]
    for one in notes:
        zero = (one["keypoint"] == 0).all(-1)
        one["keypoint"] = low + one["keypoint"] / np.array(SIZE) * (high - low)
        one["keypoint"][zero] = 0
    clips, facts, held = spooled(tmp_path, write_pyskl(tmp_path / "a.pkl", notes), "pyskl")
    for number, clip in enumerate(clips):
        np.testing.assert_allclose(held[clip.clip_id]["keypoints"], people(number)[0], atol=1e-2)
    assert "2 clips have coordinates relative to the picture" in " ".join(facts["notes"])
    for one in notes:
        one.pop("img_shape"), one.pop("original_shape")
    path = write_pyskl(tmp_path / "b.pkl", notes)
    with pytest.raises(SourceError, match=r"none of its 2 clips can be taken; .* relative .*give --size"):
        spooled(tmp_path, path, "pyskl")
    clips, _, held = spooled(tmp_path, path, "pyskl", size=SIZE)
    np.testing.assert_allclose(held[clips[1].clip_id]["keypoints"], people(1)[0], atol=1e-2)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("first", [0, 1, 900])
def test_openposes_folders_are_taken(tmp_path: Path, apart: bool, first: int) -> None:
    for number, name in enumerate(("walk", "a[1]_2")):
        points, scores = people(number, layout="openpose25")
        write_openpose(tmp_path / "poses" / (name if apart else ""), name, points, scores, first)
    clips, facts, held = spooled(tmp_path, tmp_path / "poses", "openpose", size=SIZE, fps=25.0)
    assert [clip.file for clip in clips] == ["a[1]_2", "walk"] and facts["layout"] == "openpose25"
    entries = held[clips[1].clip_id]
    assert entries["json"]["num_frames"] == 20 and entries["frames"].tolist() == np.repeat(np.arange(20), 2).tolist()
    points, _ = people(0, layout="openpose25")
    np.testing.assert_allclose(entries["keypoints"][1::2], points[0], atol=1e-2)


def test_openposes_bad_files_cost_their_clip(tmp_path: Path) -> None:
    points, scores = people(0, layout="openpose25")
    for name in ("a", "b", "c", "d", "e"):
        write_openpose(tmp_path / "p" / name, name, points, scores)
    frame = "_000000000004_keypoints.json"
    (tmp_path / "p" / "b" / f"b{frame}").write_text("{")
    (tmp_path / "p" / "c" / f"c{frame}").write_text(json.dumps({"people": [{"pose_keypoints_2d": [1, 2]}]}))
    for path in (tmp_path / "p" / "d").iterdir():
        path.write_text(json.dumps({"people": []}))
    (tmp_path / "p" / "e" / "e_999999999999_keypoints.json").write_text(json.dumps({"people": []}))
    (tmp_path / "p" / "odd_keypoints.json").write_text("{}")
    clips, _, _ = spooled(tmp_path, tmp_path / "p", "openpose")
    assert {clip.file: clip.reason for clip in clips} == {
        "a": None, "b": "bad_row", "c": "bad_row", "d": "no_person", "e": "bad_row", "odd_keypoints.json": "bad_row"
    }  # fmt: skip
    details = {clip.file: clip.detail or "" for clip in clips}
    assert "is torn or no JSON" in details["b"] and "from 0 to 999999999999" in details["e"]
    assert not any(str(tmp_path) in detail for detail in details.values()), "a dataset holds no absolute path"


@pytest.mark.parametrize("where", ["x.json", "x/alphapose-results.json"])
def test_alphaposes_results_are_taken(tmp_path: Path, where: str) -> None:
    points, scores = people(0)
    write_alphapose(tmp_path / "r" / where, points, scores)
    clips, facts, held = spooled(tmp_path, tmp_path / "r", "alphapose")
    assert [clip.file for clip in clips] == ["x"] and facts["layout"] == "coco17"
    entries = held[clips[0].clip_id]
    assert entries["identities"].tolist() == [7, 6] * 20 and not entries["json"]["size_known"]
    np.testing.assert_allclose(entries["keypoints"][::2], points[0], atol=1e-2)
    assert entries["json"]["width"] > np.nanmax(points[..., 0])


def test_alphaposes_form_by_image(tmp_path: Path) -> None:
    points, scores = people(0, 1, 3)
    held = {f"{t}.jpg": {"version": "A", "bodies": [{"joints": flat}]} for t, flat in enumerate(rows(points, scores))}
    (tmp_path / "x.json").write_text(json.dumps(held))
    clips, _, entries = spooled(tmp_path, tmp_path / "x.json", "alphapose")
    assert entries[clips[0].clip_id]["keypoints"].shape == (3, 17, 2)


def rows(points: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    joined = np.concatenate([np.nan_to_num(points[0]), scores[0][..., None]], -1)
    return [row.ravel().astype(float).tolist() for row in joined]


@pytest.mark.parametrize("backwards", [False, True])
def test_cocos_annotations_are_taken(tmp_path: Path, backwards: bool) -> None:
    path = write_coco(tmp_path / "c.json", {"a/b": people(0), "c": people(1)}, backwards)
    clips, _, held = spooled(tmp_path, path, "coco")
    assert [clip.file for clip in clips] == ["a/b", "c"]
    for number, clip in enumerate(clips):
        entries = held[clip.clip_id]
        assert entries["json"]["num_frames"] == 20 and entries["json"]["size_known"]
        np.testing.assert_allclose(entries["keypoints"][::2], people(number)[0][0], atol=1e-2)
        assert entries["identities"].tolist() == [0, 1] * 20


def test_cocos_pictures_of_their_own_are_clips_of_one_frame(tmp_path: Path) -> None:
    points, scores = people(0, 1, 3)
    flags = [[value if n % 3 != 2 else 2 for n, value in enumerate(row)] for row in rows(points, scores)]
    images = [{"id": k, "file_name": f"{k:012d}.jpg", "width": 640, "height": 480} for k in (9, 8000, 71)]
    annotations: list[dict[str, Any]] = [
        {"image_id": image["id"], "category_id": 1, "keypoints": row, "num_keypoints": 17}
        for image, row in zip(images, flags)
    ]
    annotations += [{"image_id": 9, "category_id": 1, "keypoints": [0] * 51, "num_keypoints": 0}]
    annotations += [{"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]}]
    annotations += [{"image_id": 5, "category_id": 1, "keypoints": flags[0]}]
    annotations += [{"image_id": 71, "category_id": 1, "keypoints": [1, 2, "x"]}, {"category_id": 1}, 7]
    content = {"annotations": annotations, "images": images, "categories": [{"id": 1, "name": "person"}]}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    clips, facts, held = spooled(tmp_path, path, "coco")
    assert reasons(clips) == {"taken": 3, "bad_row": 4}
    assert [clip.file for clip in clips[:3]] == ["000000000009", "000000008000", "000000000071"]
    assert all(held[clip.clip_id]["json"]["num_frames"] == 1 for clip in clips[:3])
    assert held[clips[0].clip_id]["scores"].max() == 1
    assert "1 annotations have no keypoints" in " ".join(facts["notes"])


def coco_of(path: Path, images: list[dict[str, Any]], **more: Any) -> Path:
    """A file of COCO with one person in every image."""
    keypoints = rows(*people(0, 1, 1))[0]
    images = [{"id": number, "width": 640, "height": 480} | image for number, image in enumerate(images)]
    annotations = [{"image_id": image["id"], "category_id": 1, "keypoints": keypoints} for image in images]
    path.write_text(json.dumps({"images": images, "annotations": annotations} | more))
    return path


def test_cocos_folder_of_unrelated_pictures_is_no_video(tmp_path: Path) -> None:
    files = [{"file_name": f"val2017/{number:012d}.jpg"} for number in (139, 285, 632, 581781)]
    clips, facts, held = spooled(tmp_path, coco_of(tmp_path / "c.json", files), "coco")
    assert [clip.file for clip in clips] == [str(image["file_name"])[:-4] for image in files]
    assert all(held[clip.clip_id]["json"]["num_frames"] == 1 for clip in clips)
    assert "4 images have numbers too far apart for frames of one video" in " ".join(facts["notes"])


def test_two_cameras_in_a_folder_are_two_clips(tmp_path: Path) -> None:
    files = [{"file_name": f"seq/cam{camera}_{frame:04d}.jpg"} for frame in range(5) for camera in (1, 2)]
    clips, _, held = spooled(tmp_path, coco_of(tmp_path / "c.json", files), "coco")
    assert [clip.file for clip in clips] == ["seq/cam1", "seq/cam2"]
    assert all(held[clip.clip_id]["frames"].tolist() == [*range(5)] for clip in clips)
    results = [{"image_id": one["file_name"], "keypoints": rows(*people(0, 1, 1))[0]} for one in files]
    (tmp_path / "r.json").write_text(json.dumps(results))
    assert [clip.file for clip in spooled(tmp_path, tmp_path / "r.json", "coco")[0]] == ["seq/cam1", "seq/cam2"]


def test_two_images_are_never_one_frame_of_a_clip(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [{"file_name": f"a/x{k}.jpg", "video_id": 1, "frame_id": k // 2} for k in range(4)]
    images += [{"file_name": f"b/{k}.{ending}"} for k in range(2) for ending in ("jpg", "png")]
    images += [{"file_name": f"c/000{k}.jpg", "video_id": video} for video in ([1], {"a": 1}) for k in range(2)]
    clips, _, _ = spooled(tmp_path, coco_of(tmp_path / "c.json", images), "coco")
    assert [(clip.file, clip.reason) for clip in clips] == [
        ("1", "bad_row"), ("[1]", None), ("{'a': 1}", None), ("b", "bad_row")
    ]  # fmt: skip
    assert clips[0].detail == "two images are of frame 0: 'a/x0.jpg' and 'a/x1.jpg'"


@pytest.mark.parametrize("ids", [[0, 10**12], ["0.jpg", "99999999999.jpg"], [0, "5" * 400 + ".jpg"]], ids=str)
def test_absurd_frame_numbers_cost_no_memory(tmp_path: Path, ids: list[Any]) -> None:
    keypoints = rows(*people(0, 1, 1))[0]
    (tmp_path / "x.json").write_text(json.dumps([{"image_id": one, "keypoints": keypoints} for one in ids]))
    (tmp_path / "y.json").write_text(json.dumps([{"image_id": 3, "keypoints": keypoints}]))
    clips, _, _ = spooled(tmp_path, tmp_path, "alphapose")
    assert "bad_row" in reasons(clips) and max(clip.end or 0 for clip in clips if clip.reason is None) < 10


def test_uniks_arrays_are_taken(tmp_path: Path) -> None:
    saved = write_unik(tmp_path / "u")
    clips, facts, held = spooled(tmp_path, tmp_path / "u", "unik", size=SIZE)
    assert [(clip.file, clip.split, clip.label) for clip in clips] == [
        ("val0", "val", "0"), ("val1", "val", "1"), ("train0", "train", "0"), ("train1", "train", "1"),
        ("train2", "train", "0"),
    ]  # fmt: skip
    assert facts["layout"] == "posetics17" and held[clips[0].clip_id]["json"]["num_frames"] == 20
    assert np.array_equal(held[clips[1].clip_id]["keypoints"], saved["val"][1], equal_nan=True)
    (tmp_path / "u" / "val_label.pkl").write_bytes(pickle.dumps((["a", "train2"], [0, 1])))
    clips, facts, _ = spooled(tmp_path, tmp_path / "u", "unik")
    assert [(c.file, c.split, c.reason) for c in clips if c.file == "train2"] == [
        ("train2", "val", None),
        ("train2", "train", "duplicate_id"),
    ]
    assert "1 annotations repeat the id of an earlier one" in " ".join(facts["notes"])
    (tmp_path / "u" / "val_label.pkl").write_bytes(pickle.dumps((["a", "b"], [0, 10**9])))
    clips, _, _ = spooled(tmp_path, tmp_path / "u", "unik")
    assert clips[1].reason == "bad_row" and clips[1].detail is not None
    assert clips[1].detail.startswith("clip 1 of val_data_joint.npy: 1000000000, too large for the number of a class")


def test_a_table_gives_labels_splits_and_sizes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_alphapose(tmp_path / "r" / f"{name}.json", *people(1))
    (tmp_path / "r" / "labels.csv").write_text(
        "name,label,split,subject,fps,width,height\na,run,test,s1,50,640,480\nb,sit,valid,,,,\nx,fall,,,,,\nc,,,,0,,\n"
    )
    clips, facts, held = spooled(tmp_path, tmp_path / "r", "alphapose")
    assert [(c.file, c.label, c.split, c.subject) for c in clips[:2]] == [
        ("a", "run", "test", "s1"),
        ("b", "sit", "val", None),
    ]
    assert held[clips[0].clip_id]["json"]["fps"] == "50/1" and held[clips[0].clip_id]["json"]["size_known"]
    assert clips[2].reason == "bad_row" and "frame rate is '0'" in str(clips[2].detail)
    assert "1 rows of the table name no clip of the files, for example 'x'" in facts["notes"]


@pytest.mark.parametrize(
    ("write", "form", "message"),
    [
        (b"\x80\x04", "pyskl", "no pickle of plain data, or a torn one"),
        (pickle.dumps([1]), "pyskl", "no pyskl pickle: it holds list"),
        (pickle.dumps(Path("x")), "pyskl", "it holds pathlib.PosixPath, which is not loaded"),
        (pickle.dumps({"split": ["a"], "annotations": [note(0)]}), "pyskl", "its 'split' is no dict"),
        (pickle.dumps({"split": {"train": np.array(3)}, "annotations": [note(0)]}), "pyskl", "its 'split' is no dict"),
        (pickle.dumps({"split": np.array([1, 2]), "annotations": [note(0)]}), "pyskl", "its 'split' is no dict"),
        (pickle.dumps({"annotations": [], "layout": []}), "pyskl", "it holds no clips"),
        (b'[{"image_id": 1, "keypoints": [1' + b"0" * 400 + b"]}]", "coco", "keypoints are no list of numbers"),
        (b'[{"image_id": 1' + b"0" * 40 + b', "keypoints": [1, 2, 1]}]', "alphapose", "is none of the images"),
        (b"[", "coco", "torn or no JSON"),
        (b'{"images": [}', "coco", "torn or no JSON"),
        (b"[" * 100_000, "alphapose", "torn or no JSON"),
        (b"{}", "coco", "no people with keypoints there"),
        (b"\xff\xfe", "coco", "torn or no JSON"),
        (b"x", "openpose", "give the folder"),
        (b"x", "unik", "cannot be read, or is torn"),
        (pickle.dumps([1]), "unik", "torn: it holds no plain NumPy array; allowed: a .npy of floats"),
        (pickle.dumps([1]), "coco", "looks like a pickle: --format pyskl"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, write: bytes, form: str, message: str) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(write)
    with pytest.raises(DataEngineError, match=message) as raised:
        spooled(tmp_path, path, form)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    assert not list((tmp_path / "cache").glob("imported-*")), "nothing half-made stays"


def test_a_spool_is_made_once_and_anew_when_the_file_changes(tmp_path: Path) -> None:
    path = write_pyskl(tmp_path / "a.pkl", [note(0)])
    source = Imported(file=str(path))
    first = source.prepare(tmp_path / "cache")
    times = {p: p.stat().st_mtime_ns for p in first.rglob("*")}
    assert source.prepare(tmp_path / "cache") == first and times == {p: p.stat().st_mtime_ns for p in first.rglob("*")}
    write_pyskl(path, [note(0), note(1)])
    second = source.prepare(tmp_path / "cache")
    assert second != first and len(list(source.discover(second))) == 2
    third = Imported(file=str(path)).prepare(tmp_path / "other")
    assert {p.relative_to(second): p.read_bytes() for p in second.rglob("*") if p.is_file()} == {
        p.relative_to(third): p.read_bytes() for p in third.rglob("*") if p.is_file()
    }


def test_joints_far_away_are_unseen_and_scores_above_1_are_told(tmp_path: Path) -> None:
    points = np.nan_to_num(people(0)[0])
    points[0, 2, 5], points[1] = 1e30, -1e9
    notes = [note(0, keypoint=points), note(1, keypoint_score=np.full((2, 20, 17), 7.0))]
    clips, facts, held = spooled(tmp_path, write_pyskl(tmp_path / "a.pkl", notes), "pyskl")
    found = held[clips[0].clip_id]
    assert found["keypoints"].shape == (1, 20, 17, 2) and found["json"]["left_out"] == 20
    assert np.isnan(found["keypoints"][0, 2, 5]).all() and found["scores"][0, 2, 5] == 0
    assert np.isfinite(found["keypoints"][0, 2, 6]).all() and held[clips[1].clip_id]["scores"].max() == 1
    assert "1 clips have scores above 2, which are taken for 1; scores go from 0 to 1" in facts["notes"]


def test_names_that_are_not_utf8_cost_nothing(tmp_path: Path) -> None:
    for name in (b"a\xff", b"b"):
        write_openpose(tmp_path / "p" / os.fsdecode(name), "x", *people(0, layout="openpose25"))
    (tmp_path / "p" / os.fsdecode(b"odd\xfe_keypoints.json")).write_text("{}")
    clips, _, _ = spooled(tmp_path, tmp_path / "p", "openpose")
    assert [(clip.file, clip.reason) for clip in clips] == [
        ("a\\udcff/x", None), ("b/x", None), ("odd\\udcfe_keypoints.json", "bad_row")
    ]  # fmt: skip
    path = write_pyskl(tmp_path / "a.pkl", [note(0), note(1, frame_dir="\ud800", subject="\udfff")], split=None)
    assert reasons(spooled(tmp_path, path, "pyskl")[0]) == {"taken": 2}


@pytest.mark.parametrize("form", ["coco", "openpose"])
def test_a_build_in_the_folder_is_not_read(tmp_path: Path, form: str) -> None:
    if form == "coco":
        write_coco(tmp_path / "c.json", {"a": people(0)})
    else:
        write_openpose(tmp_path / "a", "a", *people(0, layout="openpose25"))
    for build in ("one", "two"):
        inner = tmp_path / "builds" / build
        (inner / "work" / "media").mkdir(parents=True)
        (inner / ("recipe.lock.toml" if build == "one" else "work/media/.imported.lock")).touch()
    before, _, _ = spooled(tmp_path / "builds" / "one" / "work", tmp_path, form)
    write_coco(tmp_path / "builds" / "two" / "facts.json", {"b": people(0)})
    write_openpose(tmp_path / "builds" / "two", "b", *people(0))
    after, _, _ = spooled(tmp_path / "builds" / "one" / "work", tmp_path, form)
    assert [clip.file for clip in after] == ["a"] and before == after
    assert len(list((tmp_path / "builds" / "one" / "work" / "cache").glob("imported-*"))) == 1


def test_the_layout_is_that_of_most_clips(tmp_path: Path) -> None:
    def joints(number: int, count: int) -> dict[str, Any]:
        return note(number, keypoint=np.full((1, 9, count, 2), 50.0), keypoint_score=None)

    path = write_pyskl(tmp_path / "a.pkl", [joints(0, 18), joints(1, 21), *(joints(k, 17) for k in range(2, 6))])
    clips, facts, _ = spooled(tmp_path, path, "pyskl")
    assert facts["layout"] == "coco17" and reasons(clips) == {"taken": 4, "bad_row": 2}
    assert "4 clips of 17 joints and 1 clips of 18 joints and 1 clips of 21 joints" in " ".join(facts["notes"])
    clips, facts, _ = spooled(tmp_path, path, "pyskl", layout="openpose18")
    assert facts["layout"] == "openpose18" and reasons(clips) == {"taken": 1, "bad_row": 5}


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize(
    "content", [[], {}, [1, 23, 456.75, "é\\u00e9", None], {"a": [1, [2]], "b": {"c": [3]}, "d": 12345678, "e": []}]
)
def test_json_is_read_member_by_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, content: Any
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    read = list(json_stream.members(path))
    if isinstance(content, list):
        assert read == [("", one) for one in content]
    else:
        flat = [(k, one) for k, v in content.items() for one in (v if isinstance(v, list) else [v])]
        assert read == flat
    for cut in range(1, len(path.read_text())):
        (tmp_path / "torn.json").write_text(path.read_text()[:-cut])
        with pytest.raises(ValueError):
            list(json_stream.members(tmp_path / "torn.json"))


def test_names_say_what_they_are() -> None:
    assert saved_clip.one_number([None, "x", [[3.0]]]) == 3 and saved_clip.one_number([True, float("nan")]) is None
    assert people_lists._last_number("a_12_0034.jpg") == 34
