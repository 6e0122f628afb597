"""Near-duplicates: re-encoded, resized, re-cut copies are found; other takes before the same background are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import dataengine
from dataengine import builder
from dataengine.dataset.near_duplicates import Signatures, near_pairs, near_pairs_of
from dataengine.dataset.signatures import STEP, picture_hash, pose_words
from dataengine.media.decode import read_frames
from dataengine.media.encode import write_video
from dataengine.pipeline import plan
from dataengine.rendering import render_clip
from tests.support.shared import SERIAL, copied

RNG = np.random.default_rng(0)


def signature(frames: np.ndarray, joints: np.ndarray, every: int) -> tuple[list[int], np.ndarray]:
    grey = [
        cv2.cvtColor(cv2.resize(f, (64, 48), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for f in frames[::every]
    ]
    return [picture_hash(g) for g in grey], pose_words(joints[::every])


def join(*parts: tuple[list[int], np.ndarray]) -> Signatures:
    return Signatures.of([h for h, _ in parts], [w for _, w in parts], 26)


@pytest.fixture(scope="module")
def take() -> tuple[np.ndarray, np.ndarray]:
    clip = render_clip(5, 60, condition="clean", num_people=1)
    return clip.frames, clip.joints[:, 0, 1:]


def test_flat_pictures_have_no_hash() -> None:
    assert picture_hash(np.full((48, 64), 90, np.uint8)) == 0
    assert picture_hash(RNG.integers(0, 255, (48, 64), dtype=np.uint8)) != 0


@pytest.mark.parametrize("change", ["same", "smaller", "brighter", "noisy", "cut"])
def test_changed_copies_are_found(take: tuple[np.ndarray, np.ndarray], change: str, tmp_path: Path) -> None:
    frames, joints = take
    copy, moved, first = frames, joints, 0
    if change == "smaller":
        copy, moved = np.stack([cv2.resize(f, (160, 120), interpolation=cv2.INTER_AREA) for f in frames]), joints * 0.5
    elif change == "brighter":
        copy = np.clip(frames.astype(int) * 1.15 + 8, 0, 255).astype(np.uint8)
    elif change == "noisy":
        write_video(tmp_path / "x.mp4", iter(frames), 25, crf=38)
        copy = read_frames(tmp_path / "x.mp4", range(len(frames)))
    elif change == "cut":
        first = 10
        copy, moved = frames[first:], joints[first:]
    other = render_clip(6, 60, condition="clean", num_people=1)
    every = 5
    found = near_pairs(
        join(
            signature(frames, joints, every),
            signature(other.frames, other.joints[:, 0, 1:], every),
            signature(copy, moved, every),
        )
    )
    assert [(a, b, o) for a, b, o, _ in found.tolist()] == [(0, 2, first // every)]
    assert found["share"][0] >= 0.7


def test_another_take_before_the_same_background_is_no_duplicate() -> None:
    rng = np.random.default_rng(3)
    room = np.repeat(rng.integers(0, 255, (6, 8, 1), dtype=np.uint8), 3, 2)
    room = cv2.resize(room, (64, 48), interpolation=cv2.INTER_CUBIC)
    hashes = [picture_hash(cv2.cvtColor(room, cv2.COLOR_RGB2GRAY))] * 12
    standing = rng.normal(size=(13, 2)) * 40
    one = pose_words(standing + rng.normal(size=(12, 13, 2)))
    other = pose_words(rng.normal(size=(13, 2)) * 40 + rng.normal(size=(12, 13, 2)))
    assert len(near_pairs(join((hashes, one), (hashes, other)))) == 0
    again = pose_words(standing + 30 + rng.normal(size=(12, 13, 2)))
    assert len(near_pairs(join((hashes, one), (hashes, again)))) == 1


def test_poses_are_compared_at_any_place_and_size() -> None:
    pose = RNG.normal(size=(4, 13, 2)) * 30
    np.testing.assert_allclose(pose_words(pose).astype(int), pose_words(3 * pose + 100).astype(int), atol=1)
    assert (pose_words(np.full((2, 13, 2), np.nan)) == -128).all()


def test_planted_pairs_among_many() -> None:
    count, entries = 3000, 20
    base = RNG.integers(1, 1 << 63, (count, 1), dtype=np.uint64)
    bit = np.uint64(1)
    hashes = np.bitwise_xor.accumulate(
        np.concatenate([base, bit << RNG.integers(0, 64, (count, entries - 1), dtype=np.uint64)], 1), axis=1
    )
    words = RNG.integers(-60, 60, (count, entries, 26)).astype(np.int8)
    pairs = set()
    for n in range(100):
        source, copy, offset = n, count - 1 - n, n % 7
        hashes[copy, : entries - offset] = hashes[source, offset:] ^ (
            bit << RNG.integers(0, 64, entries - offset, dtype=np.uint64)
        )
        words[copy, : entries - offset] = words[source, offset:]
        pairs.add((source, copy, offset))
    found = near_pairs(Signatures(hashes.ravel(), words.reshape(-1, 26), np.arange(count + 1) * entries))
    assert {(a, b, o) for a, b, o, _ in found.tolist()} == pairs
    assert STEP == 0.5

    asked: list[int] = []

    def some_words(clips: np.ndarray) -> list[pa.Table]:
        asked.extend(clips.tolist())
        return [pa.table({"words": pa.array([words[n].tobytes() for n in clips], pa.binary())})]

    kinds = pa.list_(pa.uint64())
    read = near_pairs_of(
        (pa.table({"hashes": pa.array(list(hashes[n : n + 700]), kinds)}) for n in range(0, count, 700)), some_words
    )
    assert read.tolist() == found.tolist() and read.dtype == found.dtype
    assert {n for a, b, _ in pairs for n in (a, b)} <= set(asked) and len(asked) < count / 10
    assert len(near_pairs_of([pa.table({"hashes": pa.array([[], [7]], kinds)})], some_words)) == 0
    assert len(near_pairs_of([], some_words)) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people at 25 frames per second; a smaller, re-encoded copy of the first that starts a second later."""
    videos = tmp_path_factory.mktemp("near") / "videos"
    videos.mkdir()
    for seed in range(4):
        frames = render_clip(40 + seed, 100, condition="clean", num_people=1).frames
        write_video(videos / f"v{seed}.mp4", iter(frames), 25)
        if seed == 0:
            small = [cv2.resize(f, (256, 192), interpolation=cv2.INTER_AREA) for f in frames[25:]]
            write_video(videos / "z_copy.mp4", iter(small), 25, crf=30)
    return videos


def build(folder: Path, out: Path, *overrides: str) -> dataengine.Dataset:
    settings = ["curate.filters=[]", "report.gallery=0", "plan.clips_per_unit=3", *overrides]
    dataengine.build("posecap", {"folder": str(folder)}, out, overlay="core", overrides=settings, engine=SERIAL)
    return dataengine.open(out)


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A build of the folder without rejects. Builds in a copy reuse its poses."""
    out = folder.parent / "out"
    assert reasons(build(folder, out)) == {}
    return out


def reasons(ds: dataengine.Dataset) -> dict[str, str]:
    return {str(v).split("-")[0]: r for v, r in ds.rejects.select("video_id", "reason").collect().rows()}


def test_a_build_refuses_near_duplicates(folder: Path, finished: Path, tmp_path: Path) -> None:
    out = copied(finished, tmp_path)
    ds = build(folder, out, 'curate.dedup="near"')
    assert reasons(ds) == {"z_copy": "duplicate"}
    assert "nearly the same pictures as folder-v0" in ds.rejects.collect()["detail"][0]
    ds = build(folder, out, 'curate.dedup="mark"')
    marked = ds.clips.filter(pl.col("duplicate_of").is_not_null()).collect()
    assert [v.split("-")[0] for v in marked["video_id"]] == ["z_copy"] and reasons(ds) == {}


def test_a_dataset_guards_against_its_own_clips(folder: Path, finished: Path, tmp_path: Path) -> None:
    """The evaluation set holds the copy under another id; the original may not come into the training set."""
    held = tmp_path / "held"
    held.mkdir()
    (held / "evaluation.mp4").write_bytes((folder / "z_copy.mp4").read_bytes())
    build(held, tmp_path / "evaluation")
    ds = build(folder, copied(finished, tmp_path), f'plan.leak_guard=["{tmp_path / "evaluation"}"]')
    assert reasons(ds) == {"v0": "leak_guard", "z_copy": "leak_guard"}
    assert all("looks like folder-evaluation" in d for d in ds.rejects.collect()["detail"])


def test_classes_are_capped_and_small_ones_left_out(folder: Path, finished: Path, tmp_path: Path) -> None:
    out = copied(finished, tmp_path)
    (tmp_path / "labels.csv").write_text(
        "file,label\nv0.mp4,run\nv1.mp4,run\nv2.mp4,run\nv3.mp4,jump\nz_copy.mp4,run\n"
    )
    labels = f'sources.folder.labels="{tmp_path / "labels.csv"}"'
    ds = build(folder, out, labels, "curate.max_per_label=2", "curate.min_per_label=2")
    assert sorted(reasons(ds).values()) == ["class_cap", "class_cap", "class_small"]
    assert ds.clips.collect()["label"].to_list() == ["run", "run"]
    assert build(folder, out, labels, "curate.max_per_label=2", "plan.seed=1").clips.collect().height == 3


def test_splits_go_by_video(folder: Path, tmp_path: Path) -> None:
    settings = ["sources.folder.max_seconds=2.0", "plan.splits={val=0.5}"]
    recipe = builder.resolve("posecap", {"folder": str(folder)}, "core", settings)
    rows = pl.DataFrame(plan.make(recipe, tmp_path / "work", None, None).rows()).select("video_id", "split")
    assert rows.height > 5 and set(rows["split"]) == {"train", "val"}
    assert rows.group_by("video_id").agg(pl.col("split").n_unique())["split"].max() == 1
