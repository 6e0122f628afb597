"""Exports read by the programs that they are for, and by this package's own readers."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dataengine
from dataengine.core.skeletons import SKELETONS
from dataengine.experts.precomputed import openpose, results
from dataengine.exports.layouts import converted
from tests.support import other_programs, tiny_dataset


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of 8 clips, as a build has it; read only."""
    folder = tmp_path_factory.mktemp("exported")
    tiny_dataset.build(folder)
    return folder


def truth(out: Path, layout: str, copies: bool) -> dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """clip_id -> keypoints, scores and JSON of every clip in a layout."""
    found = {}
    for sample in dataengine.open(out).samples(entries=("keypoints", "scores", "json")):
        keypoints, scores = converted(sample["keypoints"], sample["scores"], "posetics17", layout, copies)
        found[sample["clip_id"]] = keypoints, scores, sample["json"]
    return found


@pytest.mark.parametrize(("layout", "half"), [("coco17", False), ("openpose18", False), ("own", True)])
def test_pyskl_pickles_hold_the_dataset(layout: str, half: bool, out: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from training.data.formats.pyskl import PysklDataset

    made = dataengine.export(out, "pyskl", tmp_path / "x.pkl", layout=layout, half=half)
    wanted = truth(out, made.layout, True)
    content = pickle.loads((tmp_path / "x.pkl").read_bytes())  # noqa: S301, a file of our own making
    assert {split: len(ids) for split, ids in content["split"].items()} == {"train": 4, "val": 4}
    assert content["label_names"] == list(tiny_dataset.LABELS)
    for note in content["annotations"]:
        keypoints, scores, facts = wanted.pop(note["frame_dir"])
        kind = np.float16 if half else np.float32
        assert note["keypoint"].dtype == note["keypoint_score"].dtype == kind
        assert np.array_equal(note["keypoint"], np.nan_to_num(keypoints).astype(kind))
        assert np.array_equal(note["keypoint_score"], scores.astype(kind))
        assert note["total_frames"] == keypoints.shape[1] and note["img_shape"] == (240, 320)
        assert (note["label"], note["licence"], note["fps"]) == (facts["label_id"], facts["licence"], "25")
    assert not wanted
    data = PysklDataset(tmp_path / "x.pkl", split="val", layout=made.layout)
    assert len(data) == 4 and set(data.labels) <= set(tiny_dataset.LABELS)
    first = data.read([0])[0]
    keypoints = truth(out, made.layout, True)[first.key][0]
    assert np.allclose(first.keypoints, keypoints, atol=0.2 if half else 0, equal_nan=True)


@pytest.mark.parametrize("every", [1, 3])
def test_pycocotools_evaluates_coco_against_itself(every: int, out: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    dataengine.export(out, "coco", tmp_path / "x", every=every)
    wanted = truth(out, "coco17", False)
    seen = 0
    for split in ("train", "val"):
        given = coco.COCO(tmp_path / "x" / "annotations" / f"person_keypoints_{split}.json")
        for note in given.loadAnns(given.getAnnIds()):
            image = given.loadImgs(note["image_id"])[0]
            clip_id, _, name = image["file_name"].partition("/")
            keypoints, scores, facts = wanted[clip_id]
            frame = image["frame_id"]
            assert frame % every == 0 and name == f"{frame:06d}.jpg" and (image["width"], image["height"]) == (320, 240)
            one, score = keypoints[note["track_id"], frame], scores[note["track_id"], frame]
            found = np.array(note["keypoints"]).reshape(-1, 3)
            visible = np.isfinite(one).all(-1)
            assert np.array_equal(found[:, 2], np.where(visible, 2, 0)) and note["num_keypoints"] == visible.sum()
            assert np.allclose(found[:, :2], np.nan_to_num(one), atol=0.006)
            assert np.allclose(note["keypoint_scores"], score, atol=1e-4)
            licences = {row["id"]: row["name"] for row in given.dataset["licenses"]}
            assert licences[image["license"]] == facts["licence"]
            seen += 1
        category = given.loadCats(1)[0]
        assert category["keypoints"] == list(SKELETONS["coco17"].joints)
        keys = ("image_id", "category_id", "keypoints", "score")
        answers = given.loadRes([{key: note[key] for key in keys} for note in given.anns.values()])
        judge = evaluation.COCOeval(given, answers, "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        assert judge.stats[0] == pytest.approx(1)
    people = sum(np.isfinite(keypoints).all(-1).any(-1)[:, ::every].sum() for keypoints, _, _ in wanted.values())
    assert seen == people


def test_unik_arrays_are_read_by_the_own_reader(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from training.data.formats.unik import UnikDataset

    dataengine.export(out, "unik", tmp_path / "pixels", normalise="pixels")
    wanted = truth(out, "posetics17", True)
    array = np.load(tmp_path / "pixels" / "train_data_joint.npy")
    assert array.shape == (4, 2, 8, 17, 2) and array.dtype == np.float32
    names, labels = pickle.loads((tmp_path / "pixels" / "train_label.pkl").read_bytes())  # noqa: S301
    assert labels == [wanted[name][2]["label_id"] for name in names]
    data = UnikDataset(tmp_path / "pixels")
    for clip in data.read(range(len(data))):
        keypoints = wanted.pop(clip.key)[0]
        frames = min(keypoints.shape[1], clip.keypoints.shape[1])
        assert np.array_equal(clip.keypoints[:, :frames], keypoints[:, :frames], equal_nan=True)
    assert not wanted
    made = dataengine.export(out, "unik", tmp_path / "screen", frames=5, people=1, coordinates="xys")
    assert any("were cut to 5 frames and 1 people" in note for note in made.notes)
    screen = np.load(tmp_path / "screen" / "train_data_joint.npy")
    assert screen.shape == (4, 3, 5, 17, 1)
    seen = (array[:, :, :5, :, :1] != 0).any(1)
    x, y = array[:, 0, :5, :, :1][seen], array[:, 1, :5, :, :1][seen]
    assert np.allclose(screen[:, 0][seen], x / 160 - 1, atol=1e-5)
    assert np.allclose(screen[:, 1][seen], y / 160 - 0.75, atol=1e-5)
    assert (screen[:, 0][~seen] == 0).all() and (screen[:, 2][seen] > 0).all()


@pytest.mark.parametrize(("name", "layout"), [
    ("openpose", "openpose25"), ("openpose", "openpose18"), ("alphapose", "coco17"), ("alphapose", "halpe26"),
])  # fmt: skip
def test_the_expert_precomputed_reads_saved_results(name: str, layout: str, out: Path, tmp_path: Path) -> None:
    dataengine.export(out, name, tmp_path / "x", layout=layout)
    for clip_id, (keypoints, scores, _) in truth(out, layout, False).items():
        folder = tmp_path / "x" / "poses" / clip_id
        saved = openpose.read(folder) if name == "openpose" else results.read(folder / results.ALPHAPOSE)
        for frame in range(keypoints.shape[1]):
            present = np.isfinite(keypoints[:, frame]).all(-1).any(-1)
            people = saved.people.get(frame, [])
            assert len(people) == present.sum()
            for person, coords, score in zip(people, keypoints[present, frame], scores[present, frame]):
                assert np.allclose(person.coords, coords, atol=1e-3, equal_nan=True)
                assert np.allclose(person.scores, score, atol=1e-4)


def test_parquet_holds_the_dataset(out: Path, tmp_path: Path) -> None:
    dataengine.export(out, "hf", tmp_path / "x")
    wanted = truth(out, "posetics17", True)
    for split, name in (("train", "train"), ("val", "validation")):
        for row in pl.read_parquet(tmp_path / "x" / "data" / f"{name}-00000.parquet").iter_rows(named=True):
            keypoints, scores, facts = wanted.pop(row["clip_id"])
            assert np.array_equal(np.array(row["keypoints"], np.float32), keypoints, equal_nan=True)
            assert np.array_equal(np.array(row["scores"], np.float32), scores)
            assert (facts["split"], row["label"], row["licence"]) == (split, facts["label_id"], facts["licence"])
            assert (row["fps"], row["width"], row["num_people"]) == (25, 320, len(keypoints))
    assert not wanted
    card = (tmp_path / "x" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n") and "| CC0 | 4 |" in card


def test_parquet_files_end_at_their_size(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataengine.exports import hf

    monkeypatch.setattr(hf, "GROUP_BYTES", 1)
    whole = pl.read_parquet(Path(dataengine.export(out, "hf", tmp_path / "a").path) / "data" / "train-*.parquet")
    write = hf._files
    monkeypatch.setattr(hf, "_files", lambda clips, schema, most: write(clips, schema, 2000))
    made = Path(dataengine.export(out, "hf", tmp_path / "b").path) / "data"
    assert len(list(made.glob("train-*.parquet"))) > 1
    assert pl.read_parquet(made / "train-*.parquet").equals(whole)


@pytest.mark.slow
def test_hugging_face_datasets_loads_the_folder(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    pytest.importorskip("datasets")
    dataengine.export(out, "hf", tmp_path / "x")
    code = (
        "import datasets, json, os, sys\n"
        "data = datasets.load_dataset(sys.argv[1])\n"
        "label = data['train'].features['label']\n"
        "rows = [row['clip_id'] for split in data.values() for row in split]\n"
        "lazy = datasets.load_dataset(sys.argv[1], split='validation', streaming=True)\n"
        "first = next(iter(lazy))\n"
        "print(json.dumps([label.names, {k: len(v) for k, v in data.items()}, sorted(rows), first['clip_id'], "
        "len(first['keypoints'][0][0])]), flush=True)\n"
        "os._exit(0)\n"  # threads of the stream that was not read to its end may abort an ordinary exit
    )
    program = [sys.executable, "-c", code, str(tmp_path / "x")]
    answer = subprocess.run(program, capture_output=True, text=True, check=True, env=dict(os.environ))
    names, counts, rows, first, joints = json.loads(answer.stdout.splitlines()[-1])
    assert names == list(tiny_dataset.LABELS) and counts == {"train": 4, "validation": 4} and joints == 17
    assert rows == dataengine.open(out).clips.collect()["clip_id"].to_list() and first in rows


def test_webdataset_reads_energon_shards(out: Path, tmp_path: Path) -> None:
    import webdataset as wds

    dataengine.export(out, "energon", tmp_path / "x")
    info = json.loads((tmp_path / "x" / ".nv-meta" / ".info.json").read_text())
    assert info == {"shard_counts": {"shards/train-000000.tar": 4, "shards/val-000000.tar": 4}}
    wanted = truth(out, "posetics17", True)
    for name, count in info["shard_counts"].items():
        shard = tmp_path / "x" / name
        offsets = np.fromfile(shard.with_suffix(".tar.idx"), "<u8")
        assert len(offsets) == count + 1 and offsets[-1] + 1024 == shard.stat().st_size
        for number, sample in enumerate(wds.WebDataset(str(shard), shardshuffle=False).decode()):
            keypoints, _, facts = wanted.pop(sample["__key__"])
            assert np.array_equal(sample["keypoints.npy"], keypoints, equal_nan=True)
            assert facts.items() <= sample["json"].items() and "confidence.npy" in sample
            start = shard.read_bytes()[offsets[number] : offsets[number] + 100]
            assert start.startswith(sample["__key__"].encode())
    assert not wanted


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("program", ["mmaction2", "energon"])
def test_programs_of_others_load_their_format(program: str, out: Path, tmp_path: Path) -> None:
    """In an environment of its own: MMAction2 wants NumPy 1, and neither is a dependency of this package."""
    name = {"mmaction2": "pyskl", "energon": "energon"}[program]
    made = dataengine.export(out, name, tmp_path / "x.pkl")  # MMAction2 reads no other ending
    told = other_programs.read(program, Path(made.path), tmp_path / "environment")
    clips = dataengine.open(out).clips.collect()
    for split in ("train", "val"):
        own = clips.filter(pl.col("split") == split)
        assert told[split]["clips"] == len(own)
        if program == "mmaction2":
            assert sorted(told[split]["labels"]) == sorted(own["label_id"])
            assert told[split]["shape"] == [1, 2, 20, 17, 3]
        else:
            assert sorted(told[split]["keys"]) == own["clip_id"].to_list()
