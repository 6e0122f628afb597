"""Written videos: deterministic, readable back, and honest about wrong input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

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


MATRICES = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a * d - b * c) == 1 and 0 in (a, b) and 0 in (c, d)
]
"""The eight ways to turn and mirror a picture, as a display matrix says them: (x, y) goes to (a x + c y, b x + d y)."""


@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize(("a", "b", "c", "d"), MATRICES)
def test_pictures_are_turned_and_mirrored_as_the_display_matrix_says(
    tmp_path: Path, pictures: Callable[..., Any], a: int, b: int, c: int, d: int, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    made = np.asarray(next(iter(pictures(1))))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *made.shape[:2], "yuv420p"
        one = 1 << 16
        stream.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(made, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    y, x = np.indices(made.shape[:2])
    across, down = a * x + c * y, b * x + d * y
    shown = np.zeros((np.ptp(down) + 1, np.ptp(across) + 1, 3), np.uint8)
    shown[down - down.min(), across - across.min()] = made
    info, read = probe(path), read_frames(path, [0])[0]
    assert (info.height, info.width) == shown.shape[:2] == read.shape[:2]
    assert info.mirrored == (a * d - b * c < 0)
    assert np.abs(read.astype(int) - shown).mean() < 4


def test_the_default_stream_is_read_then_the_largest(tmp_path: Path) -> None:
    def write(name: str, default: int | None) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            streams = []
            for number, size in enumerate((64, 96, 32)):
                stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
                stream.width = stream.height = size
                stream.pix_fmt = "yuv420p"
                stream.disposition = Disposition.default if number == default else 0
                streams.append(stream)
            for number, stream in enumerate(streams):
                picture = np.full((stream.height, stream.width, 3), 60 * (number + 1), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
                container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        return path

    for default, width in ((0, 64), (2, 32), (None, 96)):
        path = write(f"{default}.mkv", default)
        assert probe(path).width == width and read_frames(path, [0])[0].shape == (width, width, 3)
        assert probe(path).stream == {64: 0, 96: 1, 32: 2}[width]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_a_cover_is_no_video_wherever_it_stands(tmp_path: Path, ending: str, first: bool, marked: bool) -> None:
    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        streams = {}
        for name in ("cover", "video") if first else ("video", "cover"):
            stream = container.add_stream("mjpeg" if name == "cover" else "libx264", rate=25)
            stream.width = stream.height = 128 if name == "cover" else 64
            stream.pix_fmt = "yuvj420p" if name == "cover" else "yuv420p"
            streams[name] = stream
        if marked:
            streams["cover"].disposition = Disposition.attached_pic
        for name, stream in streams.items():
            picture = np.full((stream.height, stream.width, 3), 90, np.uint8)
            for _ in range(1 if name == "cover" else 4):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert probe(path).codec == "h264"


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
