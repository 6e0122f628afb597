"""Decoding: what a span holds, whatever the container, the codec and the place of the key frames."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError, MediaError, MissingExtraError
from dataengine.media import reader
from dataengine.media.decode import PyAVDecoder, VideoStream, read_frames
from dataengine.media.decord_decoder import DecordDecoder
from dataengine.media.encode import write_video
from dataengine.media.probe import probe
from dataengine.media.stream import TOLERANCE

DECODERS = [PyAVDecoder, DecordDecoder]

# name, options of the encoder: closed and open groups of pictures, no key frames but rolling refresh, other codecs.
CODINGS: dict[str, tuple[str, str, dict[str, str]]] = {
    "closed": ("mp4", "libx264", {"g": "12", "bf": "3"}),
    "open": ("mp4", "libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0"}),
    "refresh": ("mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    "no_b": ("mp4", "libx264", {"g": "12", "bf": "0"}),
    "mkv": ("mkv", "libx264", {"g": "12", "bf": "3"}),
    "mkv_open": ("mkv", "libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0"}),
    "ts": ("ts", "libx264", {"g": "12", "bf": "3"}),
    "avi": ("avi", "libx264", {"g": "12", "bf": "3"}),
    "mpeg4_avi": ("avi", "mpeg4", {"g": "12", "bf": "2", "b": "2M"}),
    "hevc_open": (
        "mp4",
        "libx265",
        {"x265-params": "keyint=12:min-keyint=12:bframes=4:open-gop=1:pools=1:log-level=none"},
    ),
    "vp9": ("webm", "libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
}


def read(video: VideoStream) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with video:
        batches = list(video)
    return tuple(np.concatenate([getattr(b, name) for b in batches]) for name in ("frames", "indices", "timestamps"))  # type: ignore[return-value]


def within(times: np.ndarray[Any, Any], start: float, end: float | None) -> np.ndarray[Any, Any]:
    """Which frames a span holds, counted in whole microseconds."""
    micros, slack = np.round(times * 1e6), float(TOLERANCE * 1_000_000)
    return (micros >= round(start * 1e6) - slack) & (micros < (np.inf if end is None else round(end * 1e6) - slack))


@pytest.fixture(scope="module", params=sorted(CODINGS))
def coded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pictures: Callable[..., Any]
) -> Path:
    ending, codec, options = CODINGS[request.param]
    path = tmp_path_factory.mktemp("coded") / f"{request.param}.{ending}"
    write_video(path, pictures(60), Fraction(30000, 1001), codec=codec, options=options)
    return path


def test_every_span_equals_reading_from_the_beginning(coded: Path) -> None:
    """Also the law that adjoining spans share no frame and lose none."""
    whole, indices, times = read(PyAVDecoder().open(coded))
    assert indices.tolist() == list(range(60))
    np.testing.assert_allclose(times, np.arange(60) * 1001 / 30000, atol=6e-4)
    for start in (0.0, 0.2, 0.35, 0.4, 0.7671, 1.1, 1.3013, 1.9):
        for length in (0.034, 0.5, None):
            end = None if length is None else start + length
            inside = within(times, start, end)
            frames, indices, stamps = read(PyAVDecoder().open(coded, start, end))
            assert indices.tolist() == list(range(inside.sum()))
            np.testing.assert_array_equal(frames, whole[inside])
            np.testing.assert_allclose(stamps + start, times[inside], atol=1e-9)


def test_decoders_agree(coded: Path) -> None:
    pytest.importorskip("decord")
    if coded.suffix == ".ts":
        pytest.skip("decord loses the last frames of transport streams and counts them as lost")
    for span in ((None, None), (0.5, 1.2), (1.0, None)):
        # The same numbers, not nearly the same: both convert with libswscale.
        for one, two in zip(read(PyAVDecoder().open(coded, *span)), read(DecordDecoder().open(coded, *span))):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("width", [16, 24, 32, 48, 80, 96, 98, 144])
def test_decoders_agree_about_padded_rows(tmp_path: Path, width: int) -> None:
    """decord pads rows to 64 pixels and may take the padding for channels."""
    pytest.importorskip("decord")
    pictures = np.random.default_rng(width).integers(0, 256, (4, 32, width, 3), np.uint8)
    write_video(tmp_path / "a.mp4", iter(pictures), 25)
    for one, two in zip(read(PyAVDecoder().open(tmp_path / "a.mp4")), read(DecordDecoder().open(tmp_path / "a.mp4"))):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("decoder", DECODERS)
def test_batches_are_whole_and_own_their_memory(clip: Path, decoder: type[Any]) -> None:
    pytest.importorskip("decord")
    with decoder(batch=16).open(clip) as video:
        batches = list(video)
    assert [len(batch) for batch in batches] == [16] * 6 + [4]
    assert batches[0].frames.dtype == np.uint8 and batches[0].frames.shape == (16, 48, 64, 3)
    assert batches[0].indices.dtype == np.int64 and batches[0].timestamps.dtype == np.float64
    assert not np.shares_memory(batches[0].frames, batches[1].frames)
    assert (video.num_frames, video.num_damaged, video.fps) == (100, 0, 25)


def test_large_pictures_come_in_small_batches(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    write_video(path, (np.zeros((720, 1280, 3), np.uint8) for _ in range(7)), 25)
    for options, sizes in (
        ({}, [2, 2, 2, 1]),
        ({"batch_bytes": 64 << 20}, [7]),
        ({"batch": 2}, [2, 2, 2, 1]),
        ({"batch_bytes": 1}, [1] * 7),
    ):
        with PyAVDecoder(**options).open(path) as video:
            assert [len(batch) for batch in video] == sizes


def test_time_runs_from_the_first_frame(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    """A file whose clock starts at 5 s reads as one whose clock starts at 0."""
    spans = ((None, None), (0.5, 1.0), (1.2, None))
    write_video(tmp_path / "zero.mp4", pictures(50), 25, timestamps=[i / 25 for i in range(50)])
    write_video(tmp_path / "five.mp4", pictures(50), 25, timestamps=[5 + i / 25 for i in range(50)])
    write_video(tmp_path / "five.mkv", pictures(50), 25, timestamps=[5 + i / 25 for i in range(50)])
    for span in spans:
        zero = read(PyAVDecoder().open(tmp_path / "zero.mp4", *span))
        for name in ("five.mp4", "five.mkv"):
            late = read(PyAVDecoder().open(tmp_path / name, *span))
            np.testing.assert_array_equal(zero[0], late[0])
            np.testing.assert_allclose(zero[2], late[2], atol=1e-3)


def test_variable_rate_keeps_its_times(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    times = np.cumsum(np.r_[0, np.tile([0.04, 0.02, 0.1, 0.05], 10)])
    path = tmp_path / "a.mp4"
    write_video(path, pictures(41), 25, timestamps=times.tolist(), options={"g": "5"})
    with PyAVDecoder().open(path, 0.63, 1.49) as video:
        stamps = np.concatenate([batch.timestamps for batch in video])
    inside = within(times, 0.63, 1.49)
    np.testing.assert_allclose(stamps + 0.63, times[inside], atol=1e-4)


def test_a_span_rounded_to_milliseconds_keeps_its_first_frame(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(30), 30)
    # Frames 10 and 20 lie at 333.33 ms and 666.67 ms; both bounds are rounded up.
    assert len(read(PyAVDecoder().open(path, 0.334, 0.667))[0]) == 10


@pytest.mark.parametrize("tag", [None, "full"])
def test_colours_equal_ffmpegs(tmp_path: Path, pictures: Callable[..., Any], tag: str | None) -> None:
    """Limited and full range, against libav's own filter graph."""
    path = tmp_path / "a.mkv"
    write_video(path, pictures(4), 25, options={"color_range": "pc", "colorspace": "bt709"} if tag else {})
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(read(PyAVDecoder().open(path))[0], expected)


@pytest.mark.parametrize(
    ("span", "kind"),
    [
        ((4.0, 5.0), "span_empty"),
        ((None, 0.0005), "span_empty"),
        ((9.0, None), "span_empty"),
        ((2.0, 2.0), "span_empty"),
        ((3.0, 1.0), "span_empty"),
    ],
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_span_outside_is_told(clip: Path, decoder: type[Any], span: tuple[float, float | None], kind: str) -> None:
    pytest.importorskip("decord")
    with pytest.raises(MediaError) as caught:
        read(decoder().open(clip, *span))
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"max_seconds": 3.5}, "too_long"), ({"max_pixels": 3000}, "too_large"), ({"max_bytes": 1000}, "too_large")],
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_limits(clip: Path, decoder: type[Any], options: dict[str, Any], kind: str) -> None:
    pytest.importorskip("decord")
    with pytest.raises(MediaError) as caught:
        decoder(**options).open(clip)
    assert caught.value.kind == kind
    assert (
        caught.value.value is not None
        and caught.value.threshold is not None
        and caught.value.value > caught.value.threshold
    )


def test_a_long_span_of_a_file_without_duration_is_told(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, pictures(50), 25)
    # Matroska states the duration in two places: an element, made void here, and a tag, given another name.
    path.write_bytes(path.read_bytes().replace(b"\x44\x89\x88", b"\xec\x89\x88").replace(b"DURATION", b"DURATIOX"))
    assert probe(path).duration is None
    with PyAVDecoder(max_seconds=1.0).open(path) as video, pytest.raises(MediaError) as caught:
        list(video)
    assert caught.value.kind == "too_long"


def test_the_time_limit_counts_decoding_only(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that runs only here, so that a slow machine decodes as quickly as any."""
    now = [0.0]
    with monkeypatch.context() as patched:
        patched.setattr(reader, "time", SimpleNamespace(monotonic=lambda: now[0]))
        with PyAVDecoder(timeout=1.0).open(clip) as video:
            for _ in video:
                now[0] += 0.9
    assert video.num_frames == 100
    with pytest.raises(MediaError) as caught:
        read(PyAVDecoder(timeout=0.001).open(clip))
    assert caught.value.kind == "media_timeout" and caught.value.retryable


def test_read_frames(clip: Path) -> None:
    whole = read(PyAVDecoder().open(clip))[0]
    for frame, index in zip(read_frames(clip, [30, 2, 30]), [30, 2, 30]):
        np.testing.assert_array_equal(frame, whole[index])
    np.testing.assert_array_equal(read_frames(clip, [3], 1.0, 2.0)[0], whole[28])
    assert read_frames(clip, []) == []
    with pytest.raises(MediaError, match="frame 25 was asked for"):
        read_frames(clip, [25], 1.0, 2.0)


def test_registry_checks_options() -> None:
    assert registry.create("decoders", "pyav", {"batch": 4}) == PyAVDecoder(batch=4)
    for name in ("pyav", "decord"):
        with pytest.raises(ComponentError, match="timeout"):
            registry.create("decoders", name, {"timeout": 0})
        with pytest.raises(ComponentError, match="max_damaged"):
            registry.create("decoders", name, {"max_damaged": 2})


def test_missing_decord_names_the_extra(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.delitem(sys.modules, "dataengine.media.decord_stream", raising=False)
    with pytest.raises(MissingExtraError, match="--extra decord"):
        DecordDecoder().open(clip)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a fresh process is read from /proc")
def test_memory_stays_far_below_the_clips_size(tmp_path: Path) -> None:
    """250 pictures of 640 x 480 are 230 MB; a whole process that reads them takes less."""
    path = tmp_path / "a.mp4"
    picture = np.zeros((480, 640, 3), np.uint8)
    write_video(path, (picture for _ in range(250)), 25)
    code = (
        "import sys; from dataengine.media.decode import PyAVDecoder\n"
        "for batch in PyAVDecoder().open(sys.argv[1]): pass\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    peak = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert int(peak) / 1000 < 160
