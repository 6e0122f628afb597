"""Clips that show no pose: every verb that speaks of single clips gives them a row, a reason, and nothing else."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from dataengine.io.shards import ShardWriter
from tests.support import format_files, motion_files
from tests.training.test_runs import made
from training.data.formats import open_dataset, open_datasets
from training.runs.clip_features import of_table
from training.runs.features import extract
from training.runs.no_pose import NO_POSE
from training.runs.run import load_run
from training.runs.train import train

EMPTY = (0, 3, 40, 71)
"""Numbers of the clips of which nobody is seen, or whose joints all lie at one point; one is of the split val."""
SAID = "4 of 72 clips show no pose (no joint is seen, or all lie at one point), for example '0'"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, and its motions with the poses of some clips taken away."""
    folder = tmp_path_factory.mktemp("no_pose")
    path = motion_files.write(folder / "motions.npz")
    train(made(path, run={"epochs": 1}), folder / "run")
    with np.load(path) as file:
        arrays = dict(file)
    keypoints, ends = arrays["keypoints"].copy(), arrays["offsets"]
    for number, value in zip(EMPTY, (np.nan, 0, 7, np.nan)):
        keypoints[ends[number] : ends[number + 1]] = value
    ids = np.arange(len(ends) - 1).astype(str)
    np.savez(folder / "some.npz", **{**arrays, "keypoints": keypoints, "names": ids, "split": np.full(len(ids), "new")})
    return folder


@pytest.fixture(scope="module")
def features(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of `embed`, of all clips."""
    from training.runs.embed import embed

    return embed(load_run(place / "run"), place / "some.npz", tmp_path_factory.mktemp("embed") / "features.parquet")


def test_what_a_network_is_given_of_a_clip_says_whether_it_shows_a_pose(place: Path) -> None:
    run = load_run(place / "run")
    (clips,) = open_datasets(place / "some.npz")
    for preprocess in (run.preprocess, type(run.preprocess)(run.skeleton, people=2, score=True, mask=True)):
        found = extract(lambda *motion: motion[0].flatten(1), clips, preprocess, run.frames)
        assert tuple(np.flatnonzero(~found.shows_pose)) == EMPTY and len(found.rows) == 72


def test_predict_says_no_class_of_them(place: Path, call: Any, tmp_path: Path) -> None:
    to = tmp_path / "said.csv"
    code, out, err = call("predict", place / "run", "--data", place / "some.npz", "--to", to, "--json")
    assert code == 0
    told, table = json.loads(out), pl.read_csv(to, infer_schema=False)
    assert code == 0 and f"{SAID}: no class is said of them" in err and told["no_pose"] == 4
    assert sum(told["counts"].values()) == 68 == told["result"]["details"]["clips"]
    gone = table.filter(pl.col("reason").is_not_null())
    assert gone["clip_id"].cast(pl.Int64).to_list() == list(EMPTY) and set(gone["reason"]) == {NO_POSE}
    assert gone["predicted"].null_count() == gone["probability"].null_count() == 4 and gone["label"].null_count() == 0
    assert table["predicted"].null_count() == 4 and len(table) == 72


def test_fuse_says_no_class_of_them(place: Path, call: Any, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "other")
    runs, data = (place / "run", tmp_path / "other"), ("--data", place / "some.npz", "--val-split", "new")
    code, _, err = call("fuse", *runs, *data, "--no-floors", "--to", tmp_path / "said.parquet")
    table = pl.read_parquet(tmp_path / "said.parquet")
    assert code == 0 and f"{SAID}: no class is said of them" in err
    assert table.filter(pl.col("predicted").is_null())["clip_id"].cast(pl.Int64).to_list() == list(EMPTY)
    assert table["reason"].drop_nulls().to_list() == [NO_POSE] * 4


def test_embed_gives_them_no_features(features: Path) -> None:
    table = pl.read_parquet(features)
    assert table.columns[-1] == "reason" and len(table) == 72
    gone = table.filter(pl.col("feature").is_null())
    assert gone["clip_id"].cast(pl.Int64).to_list() == list(EMPTY) and set(gone["reason"]) == {NO_POSE}
    with pytest.warns(UserWarning, match="4 of 72 clips show no pose"):
        held = of_table(features)
    assert held.rows.shape == (72, table["feature"].list.len().max()) and (~held.shows_pose).sum() == 4
    assert len(held.with_pose().clip_ids) == 68


@pytest.mark.parametrize("of", ["table", "run"])
def test_rank_leaves_them_out(of: str, place: Path, features: Path, call: Any, tmp_path: Path) -> None:
    source = (features,) if of == "table" else (place / "run", "--data", place / "some.npz")
    code, out, err = call("rank", *source, "-n", 72, "--by", "random", "--to", tmp_path / "plan.csv")
    rows = pl.read_csv(tmp_path / "plan.csv")
    assert code == 0 and "68 of 72 clips" in out and f"{SAID}: they are left out" in err
    assert not {*EMPTY} & {*rows["clip_id"].to_list()} and rows["stands_for"].sum() == 68


def test_annotate_proposes_nothing_for_them(features: Path, call: Any, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,label\n" + "".join(f"{n},{n % 2}\n" for n in range(6)))
    code, out, err = call("annotate", features, "--labels", labels, "--to", tmp_path / "p.csv", "--json")
    table = pl.read_csv(tmp_path / "p.csv", infer_schema=False)
    assert code == 0 and SAID in err and json.loads(out)["proposed"] == 72 - 6 - 2
    gone = table.filter(pl.col("reason").is_not_null())
    assert len(table) == 72 and gone["clip_id"].cast(pl.Int64).to_list() == list(EMPTY)
    for name in ("proposed", "probability", "margin", "doubt"):
        assert gone[name].null_count() == 4
    assert gone["given"].to_list() == ["0", "1", None, None]


def test_check_compares_them_with_nothing(features: Path, call: Any, tmp_path: Path) -> None:
    code, out, err = call("check", features, "--to", tmp_path / "f.csv", "--json")
    assert code == 0
    table, told = pl.read_csv(tmp_path / "f.csv", infer_schema=False), json.loads(out)
    assert code == 0 and SAID in err and told["clips"] == 72 == len(table)
    gone = table.tail(4)
    assert gone["clip_id"].cast(pl.Int64).to_list() == list(EMPTY) and set(gone["reason"]) == {NO_POSE}
    for name in ("doubt", "proposed", "probability", "nearest", "similarity", "outlier"):
        assert gone[name].null_count() == 4
    assert table["nearest"].null_count() == table["outlier"].null_count() == 4
    assert not {str(n) for n in EMPTY} & {*table["nearest"].drop_nulls()}


def test_where_no_clip_shows_a_pose_nothing_is_compared(place: Path, call: Any, tmp_path: Path) -> None:
    with np.load(place / "some.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "none.npz", **{**arrays, "keypoints": np.full_like(arrays["keypoints"], np.nan)})
    np.savez(tmp_path / "twice.npz", **{**arrays, "names": ["x"] * 72})
    run, none = place / "run", ("--data", tmp_path / "none.npz")
    assert call("predict", run, *none, "--to", tmp_path / "said.csv")[0] == 0
    assert pl.read_csv(tmp_path / "said.csv")["predicted"].null_count() == 72
    assert call("embed", run, *none, "--to", tmp_path / "none.parquet")[0] == 0
    for arguments, what in (
        (("rank", run, *none, "--to", tmp_path / "x.csv"), "none.npz: none of 72 clips shows a pose"),
        (("check", tmp_path / "none.parquet", "--to", tmp_path / "x.csv"), "none.parquet: none of 72 clips shows"),
        (("embed", run, "--data", tmp_path / "twice.npz", "--to", tmp_path / "x.parquet"), "'x' stands at 72 clips"),
        (("embed", run, *none, "--to", tmp_path / "x.csv"), "give a file that ends in .parquet"),
    ):
        code, out, err = call(*arguments)
        last = err.strip().splitlines()[-1]
        assert code == 1 and not out and what in last and last.startswith("dataengine-train: ")
        assert not Path(arguments[-1]).exists()


def motions_of(place: Path) -> tuple[list[np.ndarray], list[int]]:
    """The poses (1, T, V, 2) and labels of the clips; of the first there is no person, the second has no frame."""
    with np.load(place / "some.npz") as file:
        ends = file["offsets"]
        clips = [file["keypoints"][None, first:end] for first, end in itertools.pairwise(ends)]
        return [clips[1][:0], clips[2][:, :0], clips[3], *clips[4:12]], file["label"][1:12].tolist()


def pyskl(folder: Path, place: Path) -> Path:
    clips, labels = motions_of(place)
    notes = [
        {"frame_dir": f"a/{n}", "keypoint": clip, "label": label} for n, (clip, label) in enumerate(zip(clips, labels))
    ]
    names = ["a", "b", "c", "d"]
    return format_files.write_pyskl(folder / "some.pkl", notes, layout="body13", label_names=names, split={})


def unik(folder: Path, place: Path) -> Path:
    clips, labels = motions_of(place)
    whole = np.zeros((len(clips), 2, 60, clips[0].shape[2], 1), np.float32)
    for row, clip in zip(whole, clips):
        if clip.size:
            row[:, : min(60, clip.shape[1]), :, 0] = np.nan_to_num(clip[0, :60]).transpose(2, 0, 1)
    (folder / "unik").mkdir()
    np.save(folder / "unik" / "train_data_joint.npy", whole)
    content = ([str(n) for n in range(len(clips))], labels)
    (folder / "unik" / "train_label.pkl").write_bytes(pickle.dumps(content))
    return folder / "unik"


def shards(folder: Path, place: Path) -> Path:
    clips, labels = motions_of(place)
    with ShardWriter(folder / "some.tar") as writer:
        for number, (clip, label) in enumerate(zip(clips, labels)):
            facts = {"label": "abcd"[label], "label_id": label, "skeleton": "body13"}
            scores = np.ones(clip.shape[:-1], np.float32)
            writer.write(f"k{number}", {"json": facts, "keypoints.npy": clip, "scores.npy": scores})
    return folder / "some.tar"


@pytest.mark.parametrize("write", [pyskl, unik, shards])
def test_formats_that_leave_them_out_of_training_keep_them_for_a_row(
    write: Any, place: Path, call: Any, tmp_path: Path, recwarn: Any
) -> None:
    path = write(tmp_path, place)
    layout = {"layout": "body13"} if write is unik else {}
    assert len(open_dataset(path, **layout)) < 11
    kept = open_dataset(path, keep_nobody=True, **layout)
    assert len(kept) == 11 and all(all(clip.keypoints.shape[:2]) for clip in kept.read(range(11)))
    run = load_run(place / "run")
    if write is not unik:
        assert call("predict", place / "run", "--data", path, "--to", tmp_path / "said.csv", "--device", "cpu")[0] == 0
        said = pl.read_csv(tmp_path / "said.csv")
        assert len(said) == 11 and said["reason"].head(3).to_list() == [NO_POSE] * 3 and said["reason"].count() == 3
    found = extract(lambda motion: motion.flatten(1), kept, run.preprocess, run.frames)
    assert np.flatnonzero(~found.shows_pose).tolist() == [0, 1, 2]
