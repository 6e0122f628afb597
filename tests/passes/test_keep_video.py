"""Videos kept beside the poses: the same keys and frames, heads blurred on request, nothing copied without a
licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dataengine
from dataengine.core.component import DetectorSession
from dataengine.dataset.verify import verify
from dataengine.io import shards
from dataengine.media.decode import PyAVDecoder
from dataengine.media.encode import write_video
from dataengine.passes import video
from dataengine.passes.video import blurred, face_circles, heads
from dataengine.pipeline.engine import Engine
from dataengine.rendering import render_clip
from tests.support.blank_faces import face_file

SERIAL = Engine(serial=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kept") / "videos"
    place.mkdir()
    for seed in range(3):
        write_video(
            place / f"v{seed}.mp4", iter(render_clip(60 + seed, 50, condition="clean", num_people=1).frames), 50, crf=10
        )
    (place / "labels.csv").write_text("file,licence\nv0.mp4,CC0-1.0\nv1.mp4,CC0-1.0\nv2.mp4,\n")
    return place


def build(folder: Path, out: Path, *overrides: str) -> dataengine.Dataset:
    settings = ["curate.filters=[]", "report.gallery=0", "pack.keep_video=true", "pose.max_fps=25.0", *overrides]
    dataengine.build("posecap", {"folder": str(folder)}, out, overlay="core", overrides=settings, engine=SERIAL)
    return dataengine.open(out)


def videos(out: Path, scratch: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted((out / "dataset" / "shards" / "video").glob("*.tar")):
        for key, entries in shards.iterate(path):
            (scratch / "x.mp4").write_bytes(entries["mp4"])
            with PyAVDecoder().open(scratch / "x.mp4") as stream:
                found[key] = np.concatenate([batch.frames for batch in stream])
    return found


def test_kept_videos_have_the_frames_of_the_poses(folder: Path, tmp_path: Path) -> None:
    ds = build(folder, tmp_path / "out")
    rejects = ds.rejects.select("video_id", "reason").collect().rows()
    assert [(v.split("-")[0], r) for v, r in rejects] == [("v2", "licence_unknown")]
    assert verify(tmp_path / "out") == []
    kept = videos(tmp_path / "out", tmp_path)
    assert set(kept) == set(ds.clips.collect()["clip_id"])
    for clip_id, frames in kept.items():
        sample = ds.sample(clip_id)
        assert len(frames) == sample["keypoints"].shape[1] == 25
        number = int(clip_id.split("-")[1][1])
        truth = render_clip(60 + number, 50, condition="clean", num_people=1).frames[::2]
        assert np.abs(frames.astype(int) - truth).mean() < 6
    assert build(folder, tmp_path / "out", "pack.allow_unknown_licence=true").clips.collect().height == 3


def test_heads_are_blurred_and_the_rest_is_not(folder: Path, tmp_path: Path) -> None:
    plain_ds = build(folder, tmp_path / "out")
    plain = videos(tmp_path / "out", tmp_path)
    build(folder, tmp_path / "out", "pack.blur_faces=true")
    blurry = videos(tmp_path / "out", tmp_path)
    assert verify(tmp_path / "out") == []
    for clip_id, frames in plain.items():
        sample = plain_ds.sample(clip_id)
        circles = heads(sample["keypoints"], "posetics17")[0]
        for n in (3, 12, 20):
            x, y, radius = circles[n]
            rows, cols = np.mgrid[: frames.shape[1], : frames.shape[2]]
            away = np.hypot(cols - x, rows - y)
            change = np.abs(frames[n].astype(int) - blurry[clip_id][n]).mean(-1)
            assert change[away > 1.3 * radius].mean() < 3
            assert change[away < 0.8 * radius].mean() > 2 * change[away > 1.3 * radius].mean()


def test_circles_follow_the_head_through_gaps() -> None:
    pose = np.full((1, 5, 17, 2), np.nan, np.float32)
    pose[0, 1:, :] = np.linspace(0, 80, 17)[None, :, None] + 10 * np.arange(1, 5)[:, None, None]
    pose[0, 3, 0] = np.nan
    circles = heads(pose, "posetics17")[0]
    assert np.isfinite(circles).all()
    np.testing.assert_allclose(circles[0, :2], circles[1, :2])
    assert circles[0, 2] > circles[1, 2]
    frame = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    out = blurred(frame, np.array([[30.0, 20.0, 10.0], [np.nan] * 3, [-50.0, -50.0, 5.0]]))
    assert out[20, 30].std() >= 0 and np.abs(out[15:25, 25:35].astype(int) - frame[15:25, 25:35]).mean() > 20
    np.testing.assert_array_equal(out[40:], frame[40:])


@pytest.mark.slow
def test_faces_that_a_detector_finds_are_blurred_too(folder: Path, tmp_path: Path) -> None:
    """The detector sees a face in the upper left corner of every frame, where nobody is."""
    build(folder, tmp_path / "out", "pack.blur_faces=true")
    plain = videos(tmp_path / "out", tmp_path)
    path = face_file(tmp_path, first_only=True)
    found = ['pack.face_detector="blazeface"', f'face_detectors.blazeface={{model="{path}", zoom=1}}']
    build(folder, tmp_path / "out", "pack.blur_faces=true", *found)
    blurry = videos(tmp_path / "out", tmp_path)
    assert verify(tmp_path / "out") == []
    assert set(plain) == set(blurry)
    for clip_id, frames in plain.items():
        assert frames.shape == blurry[clip_id].shape
        change = np.abs(frames.astype(int) - blurry[clip_id]).mean((0, 3))
        assert change[:24, :24].mean() > 2 * change[60:].mean()


def test_a_face_is_held_before_and_after() -> None:
    none, one = np.zeros((0, 5), np.float32), np.array([[10, 20, 30, 50, 0.9]], np.float32)
    boxes = [none, none, none, none, one, none]
    np.testing.assert_allclose(face_circles(boxes, 4), [[20, 35, 24]])
    np.testing.assert_allclose(face_circles(boxes, 5), [[20, 35, 26.4]])
    np.testing.assert_allclose(face_circles(boxes, 1), [[20, 35, 31.2]])
    assert face_circles(boxes, 0).shape == (0, 3)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 20])
def test_every_frame_comes_out_once_with_the_faces_about_it(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector sees a face in frame 8 only; six frames beside it are blurred there, too."""
    frames = np.random.default_rng(0).integers(0, 256, (count, 40, 60, 3)).astype(np.uint8)
    frames[:, 0, 0, 0] = np.arange(count)

    class Seeing(DetectorSession):
        def detect(self, some: np.ndarray) -> list[np.ndarray]:
            seen = some[0, 0, 0, 0] == 8
            return [np.array([[20, 10, 40, 30, 0.9]] if seen else np.zeros((0, 5)), np.float32)]

    monkeypatch.setattr(video, "_picked", lambda job, plan, clip: iter(frames))
    given: list[Any] = [None, None, None, None, [Seeing()]]
    found = list(video._frames(*given))
    assert [int(frame[0, 0, 0]) for frame in found] == list(range(count))
    changed = [n for n in range(count) if not np.array_equal(found[n], frames[n])]
    assert changed == [n for n in range(5, 12) if n < count and count > 8]
