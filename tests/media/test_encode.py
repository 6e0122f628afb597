"""Written videos: deterministic, readable back, and honest about wrong input."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core.errors import DataEngineError
from dataengine.media.decode import PyAVDecoder, read_frames
from dataengine.media.encode import write_video
from dataengine.media.probe import digest, probe


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi", "a.ts"])
def test_same_pictures_give_same_bytes(tmp_path: Path, pictures: Callable[..., Any], name: str) -> None:
    one, two = tmp_path / name, tmp_path / f"other_{name}"
    for path in (one, two):
        assert write_video(path, pictures(12), Fraction(30000, 1001)) == 12
    assert digest(one) == digest(two)


def test_pictures_survive(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(20), 25, crf=10)
    assert probe(path).fps == 25
    for shown, made in zip(read_frames(path, range(20)), pictures(20)):
        assert np.abs(shown.astype(int) - made).mean() < 4


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_rotation_tag_turns_clockwise(tmp_path: Path, pictures: Callable[..., Any], rotation: int, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    write_video(path, pictures(3), 25, crf=10, rotation=rotation)
    info = probe(path)
    assert info.rotation == rotation
    (made,) = list(pictures(1))
    expected = np.rot90(made, -rotation // 90)
    assert (info.height, info.width) == expected.shape[:2]
    assert np.abs(read_frames(path, [0])[0].astype(int) - expected).mean() < 4


def test_odd_sizes_are_kept(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(3, height=37, width=51), 25)
    assert (probe(path).width, probe(path).height, probe(path).pix_fmt) == (51, 37, "yuv444p")


def test_timestamps_are_kept(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    path, times = tmp_path / "a.mp4", [0.0, 0.04, 0.1, 0.3, 0.32, 1.0]
    write_video(path, pictures(6), 25, timestamps=times)
    with PyAVDecoder().open(path) as video:
        read = np.concatenate([batch.timestamps for batch in video])
    np.testing.assert_allclose(read, times, atol=1e-4)
    assert probe(path).variable_rate


def test_index_comes_first_by_default(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    for faststart in (True, False):
        write_video(tmp_path / "a.mp4", pictures(3), 25, faststart=faststart)
        data = (tmp_path / "a.mp4").read_bytes()
        assert (data.index(b"moov") < data.index(b"mdat")) == faststart


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "at least one picture"),
        ([np.zeros((8, 8), np.uint8)], {}, "uint8"),
        ([np.zeros((8, 8, 3), np.float32)], {}, "uint8"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], {}, "one size"),
        ([np.zeros((16, 16, 3), np.uint8)] * 2, {"timestamps": [0.0]}, "one for each"),
        ([np.zeros((16, 16, 3), np.uint8)] * 2, {"timestamps": [0.0, 0.1, 0.2]}, "one for each"),
        ([np.zeros((16, 16, 3), np.uint8)] * 2, {"timestamps": [0.1, 0.1]}, "ascending"),
        ([np.zeros((16, 16, 3), np.uint8)], {"rotation": 45}, "90"),
        ([np.zeros((16, 16, 3), np.uint8)], {"fps": 0}, "fps"),
    ],
)
def test_wrong_input_is_told_and_leaves_nothing(
    tmp_path: Path, frames: list[Any], options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(DataEngineError, match=message):
        write_video(path, frames, **({"fps": 25} | options))
    assert not path.exists()
