"""Real videos of the shared folder: phones, webcams, old data sets, broken ones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import MediaError
from dataengine.media.decode import PyAVDecoder
from dataengine.media.decord_decoder import DecordDecoder
from dataengine.media.probe import probe

pytestmark = pytest.mark.data


def rows(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "videos" / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_video_is_what_the_list_says(shared_data: Path, large: bool) -> None:
    chosen = [row for row in rows(shared_data) if (int(row["width"]) * int(row["height"]) > 1_000_000) == large]
    assert len(chosen) > 5
    for row in chosen:
        path = shared_data / row["file"]
        info = probe(path)
        stated = (int(row["width"]), int(row["height"]))
        assert (info.width, info.height) == (stated[::-1] if info.rotation else stated), row["file"]
        assert (info.codec, info.pix_fmt) == (row["codec"], row["pixel_format"])
        assert float(info.fps) == pytest.approx(float(row["fps"]), rel=1e-3)
        assert info.num_frames == (int(row["frames_in_header"]) if row["frames_in_header"] else None)
        assert info.duration == pytest.approx(float(row["duration_s"]), abs=0.1)
        assert info.has_audio == bool(row["audio"])
        with PyAVDecoder().open(path) as video:
            for batch in video:
                assert batch.frames.shape[1:] == (info.height, info.width, 3)
                assert np.all(np.diff(batch.timestamps) > 0)
        assert video.num_frames == int(row["frames"]), row["file"]
        whole = row["frames_in_header"] in ("", row["frames"])
        assert (video.num_damaged == 0) == whole, row["file"]


def test_a_phone_video_is_turned_upright(shared_data: Path) -> None:
    info = probe(shared_data / "videos/edge/video_90.mov")
    assert (info.rotation, info.width, info.height) == (90, 320, 568)


def test_spans_equal_reading_from_the_beginning(shared_data: Path) -> None:
    for name in ("flipping_a_pancake.mkv", "SOX5yA1l24A.mp4", "v_SoccerJuggling_g23_c01.avi"):
        path = shared_data / "videos" / name
        with PyAVDecoder().open(path) as video:
            batches = [(batch.timestamps, batch.frames[:, ::8, ::8].copy()) for batch in video]
        times, whole = (np.concatenate(part) for part in zip(*batches))
        for start, end in ((0.51, 1.13), (1.2, 1.9), (times[-1] * 0.7, times[-1])):
            with PyAVDecoder().open(path, start, end) as video:
                frames = np.concatenate([batch.frames[:, ::8, ::8] for batch in video])
            inside = (times >= start - 0.001) & (times < end - 0.001)
            np.testing.assert_array_equal(frames, whole[inside], err_msg=f"{name} {start} {end}")


def test_decord_gives_the_same_pictures(shared_data: Path) -> None:
    pytest.importorskip("decord")
    for name in ("arm_wrestling_demo.mp4", "edge/video_90.mov", "edge/h265_video.mp4", "flipping_a_pancake.mkv"):
        path = shared_data / "videos" / name
        with PyAVDecoder().open(path, 0.05) as one, DecordDecoder().open(path, 0.05) as two:
            for left, right in zip(one, two, strict=True):
                np.testing.assert_array_equal(left.frames, right.frames)
                np.testing.assert_array_equal(left.timestamps, right.timestamps)


def test_decord_ends_on_a_damaged_stream(shared_data: Path) -> None:
    pytest.importorskip("decord")
    with pytest.raises(MediaError) as caught, DecordDecoder().open(shared_data / "videos/edge/corrupted.mp4") as video:
        list(video)
    assert caught.value.kind == "stream_damaged"
