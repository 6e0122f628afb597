"""Every kind of broken file ends as a typed error or as counted damage, and soon."""

from __future__ import annotations

import os
import socket
import struct
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from dataengine.core.errors import MediaError
from dataengine.core.failures import environment_kind
from dataengine.core.reasons import REASONS
from dataengine.media.decode import PyAVDecoder, read_frames
from dataengine.media.decord_decoder import DecordDecoder
from dataengine.media.encode import write_video
from dataengine.media.files import check_storage
from dataengine.media.probe import digest, probe

LIMIT_S = 60.0
"""More than the slowest machine needs: what takes longer hangs."""


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LIMIT_S


def noise(count: int, width: int = 320, height: int = 240) -> Iterator[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    still = generator.integers(0, 256, (height, width, 3), np.uint8)
    for index in range(count):
        picture = np.roll(still, index * 2, axis=1)
        # New noise in every picture keeps all packets large, so that a share of the bytes is a share of the frames.
        picture[: height // 2] = generator.integers(0, 256, (height // 2, width, 3), np.uint8)
        yield picture


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """100 frames with a key frame every 20, the index in front."""
    path = tmp_path_factory.mktemp("sound") / "sound.mp4"
    write_video(path, noise(100), 25, options={"g": "20"})
    return path.read_bytes()


def boxes(data: bytes) -> dict[str, tuple[int, int]]:
    """First and last byte of the outermost boxes of an mp4."""
    found, at = {}, 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        found[name.decode()] = (at, at + size)
        at += size
    return found


def kind_of(act: Callable[[], Any]) -> str:
    with pytest.raises(MediaError) as caught:
        act()
    assert caught.value.kind in REASONS
    assert os.sep not in str(caught.value), "a message in a dataset must not name folders"
    return caught.value.kind


def read_all(path: Path, decoder: Any, **span: float) -> tuple[int, int]:
    with decoder.open(path, **span) as video:
        for batch in video:
            assert batch.frames.shape[1:] == (240, 320, 3)
    return video.num_frames, video.num_damaged


OPENERS: dict[str, Callable[[Path], Any]] = {
    "probe": probe,
    "pyav": lambda path: read_all(path, PyAVDecoder()),
    "decord": lambda path: read_all(path, DecordDecoder()),
}


@pytest.fixture(params=sorted(OPENERS))
def opener(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    if request.param == "decord":
        pytest.importorskip("decord")
    return OPENERS[request.param]


def test_missing(tmp_path: Path, opener: Callable[[Path], Any]) -> None:
    assert kind_of(lambda: opener(tmp_path / "a.mp4")) == "media_missing"
    assert kind_of(lambda: digest(tmp_path / "a.mp4")) == "media_missing"
    (tmp_path / "file").write_bytes(b"x")
    assert kind_of(lambda: opener(tmp_path / "file" / "a.mp4")) == "media_missing"


def test_empty(tmp_path: Path, opener: Callable[[Path], Any]) -> None:
    (tmp_path / "a.mp4").touch()
    assert kind_of(lambda: opener(tmp_path / "a.mp4")) == "media_empty"


def test_not_a_file(tmp_path: Path, opener: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without a writer would block for ever if it were opened."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket.mp4")
        for name in ("pipe.mp4", "folder.mp4", "link.mp4", "socket.mp4"):
            began = time.monotonic()
            assert kind_of(lambda name=name: opener(tmp_path / name)) == "not_a_file"
            assert kind_of(lambda name=name: digest(tmp_path / name)) == "not_a_file"
            assert time.monotonic() - began < LIMIT_S / 4
    assert kind_of(lambda: opener(Path("/dev/zero"))) == "not_a_file"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_forbidden(tmp_path: Path, sound: bytes, opener: Callable[[Path], Any]) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(sound)
    path.chmod(0)
    assert kind_of(lambda: opener(path)) == "media_unreadable"


def test_refused_by_the_file_system(tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(sound)

    def refuse(error: OSError) -> Callable[..., Any]:
        def open_(*_: Any, **__: Any) -> Any:
            raise error

        return open_

    for error, retryable in (
        (PermissionError(13, "Permission denied"), False),
        (OSError(5, "Input/output error"), True),
    ):
        monkeypatch.setattr(Path, "open", refuse(error))
        with pytest.raises(MediaError) as caught:
            probe(path)
        assert (caught.value.kind, caught.value.retryable) == ("media_unreadable", retryable)
        assert environment_kind(caught.value) == ("storage_failed" if retryable else None)


def test_damage_is_told_from_a_file_system_that_fails(
    tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libav says 'Input/output error' of both."""
    path = tmp_path / "a.mp4"
    path.write_bytes(sound)
    said = OSError(5, "Input/output error")
    check_storage(path, said)

    def refuse(*_: Any, **__: Any) -> Any:
        raise said

    monkeypatch.setattr(Path, "open", refuse)
    check_storage(path, ValueError("damaged"))
    with pytest.raises(MediaError) as caught:
        check_storage(path, said)
    assert environment_kind(caught.value) == "storage_failed"


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "noise": lambda _: np.random.default_rng(0).bytes(300_000),
    "zeros": lambda _: bytes(300_000),
    "text": lambda _: b"<html><body>404 Not Found</body></html>\n" * 100,
    "one_byte": lambda data: data[:1],
    "header_only": lambda data: data[:40],
    "half_of_the_index": lambda data: data[: sum(boxes(data)["moov"]) // 2],
    "no_index": lambda data: data[: boxes(data)["moov"][0]] + data[boxes(data)["moov"][1] :],
    "playlist": lambda _: b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "script": lambda _: b"ffconcat version 1.0\nfile '/etc/hostname'\n",
}


@pytest.mark.parametrize("name", sorted(GARBAGE))
def test_garbage(tmp_path: Path, sound: bytes, opener: Callable[[Path], Any], name: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(GARBAGE[name](sound))
    whole = name in ("text", "playlist")  # but no video
    assert kind_of(lambda: opener(path)) == ("no_video_stream" if whole else "media_corrupt")


@pytest.mark.parametrize("name", ["a.mp4", "concat:a.mp4", "http:__a.mp4", "a b%20ä?.mp4"])
def test_a_name_is_never_an_address(
    tmp_path: Path, sound: bytes, opener: Callable[[Path], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(sound)
    monkeypatch.chdir(tmp_path)
    opener(Path(name))


def test_sound_only(tmp_path: Path, opener: Callable[[Path], Any]) -> None:
    path = tmp_path / "a.mp4"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    assert kind_of(lambda: opener(path)) == "no_video_stream"


def test_too_large(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(sound)
    assert kind_of(lambda: probe(path, max_pixels=320 * 240 - 1)) == "too_large"
    assert kind_of(lambda: probe(path, max_bytes=len(sound) - 1)) == "too_large"
    assert kind_of(lambda: digest(path, max_bytes=len(sound) - 1)) == "too_large"
    assert probe(path, max_pixels=320 * 240, max_bytes=len(sound)).width == 320


def test_truncated_but_within_the_allowed_share(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "a.mp4"
    start, end = boxes(sound)["mdat"]
    path.write_bytes(sound[: start + int((end - start) * 0.95)])
    frames, damaged = read_all(path, PyAVDecoder())
    assert 85 <= frames < 100
    assert 100 - frames <= damaged <= 100 - frames + 1
    # The part that is there is read as if nothing were wrong.
    assert read_all(path, PyAVDecoder(), start=1.0, end=2.0) == (25, 0)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_truncated(tmp_path: Path, share: float, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    write_video(path, noise(40), 25, options={"g": "10"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    if ending == "ts":
        # A transport stream announces nothing: what is there is all there is, but for the frame that was cut.
        frames, damaged = read_all(path, PyAVDecoder())
        assert 40 * share - 5 < frames < 40 * share + 5 and damaged <= 2
        return
    with pytest.raises(MediaError) as caught:
        read_all(path, PyAVDecoder())
    assert caught.value.kind == "stream_damaged" and caught.value.threshold == 0.1
    assert caught.value.value == pytest.approx(1 - share, abs=0.1)
    frames, damaged = read_all(path, PyAVDecoder(max_damaged=1.0))
    # Matroska announces a duration only: pictures missing between those that came are not counted.
    assert frames + damaged == pytest.approx(40, abs=5 if ending == "mkv" else 1)


def test_a_span_behind_the_break_is_damaged(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(sound[: len(sound) // 2])
    for span, kind in (((1.5, 3.0), "stream_damaged"), ((3.0, 3.5), "decode_failed"), ((9.0, 10.0), "span_empty")):
        assert kind_of(lambda span=span: read_all(path, PyAVDecoder(), start=span[0], end=span[1])) == kind


def test_without_pictures(tmp_path: Path, sound: bytes, opener: Callable[[Path], Any]) -> None:
    """The index is whole, the data is not there or is not what the index says."""
    start, end = boxes(sound)["mdat"]
    for data in (sound[: start + 8], sound[: start + 8] + bytes(end - start - 8)):
        path = tmp_path / "a.mp4"
        path.write_bytes(data)
        assert kind_of(lambda path=path: opener(path)) == "decode_failed"


@pytest.mark.parametrize("spots", [3, 5, 40])  # a decoder passes over one spot in five
def test_damage_in_the_middle_is_counted(tmp_path: Path, sound: bytes, spots: int) -> None:
    path = tmp_path / "a.mp4"
    start, end = boxes(sound)["mdat"]
    generator, data = np.random.default_rng(spots), bytearray(sound)
    for at in generator.integers(start + 5000, end - 400, spots):
        data[at : at + 300] = generator.bytes(300)
    path.write_bytes(data)
    frames, damaged = read_all(path, PyAVDecoder(max_damaged=1.0))
    assert frames >= 75
    assert 1 <= damaged <= 2 * spots + 2
    if damaged > 10:
        assert kind_of(lambda: read_all(path, PyAVDecoder())) == "stream_damaged"


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_never_escapes(tmp_path: Path, sound: bytes, seed: int) -> None:
    """Bytes changed anywhere, the index included: frames, or a typed error; nothing else."""
    path = tmp_path / "a.mp4"
    generator, data = np.random.default_rng(seed), bytearray(sound)
    for at in np.r_[generator.integers(0, 4000, 3), generator.integers(0, len(data) - 64, 5)]:
        data[at : at + 16] = generator.bytes(16)
    path.write_bytes(data[: generator.integers(len(data) // 4, len(data))])
    for decoder in (PyAVDecoder(max_damaged=1.0, timeout=20.0), PyAVDecoder(timeout=20.0)):
        try:
            with decoder.open(path, start=float(generator.integers(0, 3))) as video:
                frames = sum(len(batch) for batch in video)
            assert frames == video.num_frames > 0
        except MediaError as error:
            assert error.kind in REASONS


def test_decord_on_damage(tmp_path: Path, sound: bytes) -> None:
    pytest.importorskip("decord")
    path = tmp_path / "a.mp4"
    path.write_bytes(sound[: len(sound) // 2])
    assert kind_of(lambda: read_all(path, DecordDecoder())) == "stream_damaged"
    frames, damaged = read_all(path, DecordDecoder(max_damaged=1.0))
    assert frames + damaged == 100 and frames > 20


def test_probe_and_digest_of_a_sound_file(tmp_path: Path, sound: bytes) -> None:
    from blake3 import blake3

    path = tmp_path / "a.mp4"
    path.write_bytes(sound)
    assert digest(path) == (len(sound), blake3(sound).hexdigest())
    info = probe(path)
    assert (info.width, info.height, info.fps, info.duration, info.num_frames) == (320, 240, 25, 4.0, 100)
    assert (info.codec, info.rotation, info.pix_fmt, info.has_audio, info.variable_rate) == (
        "h264",
        0,
        "yuv420p",
        False,
        False,
    )


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP picture"),
        (b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x02", "a WebP animation"),
        (b"BM\x36\x10\0\0\0\0\0\0\x36", "a BMP picture"),
        (b"II*\0\x08", "a TIFF picture"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF picture"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "a HEIC picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG picture"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"x.mp4".ljust(257, b"\0") + b"ustar", "a tar archive"),
        (b"  <!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"#EXTM3U\n", "a playlist"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nHello\n", "subtitles"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer to a file in Git LFS"),
        (b"/annex/objects/SHA256E-s12--ab.mp4\n", "a pointer to a file in git-annex"),
    ],
)
@pytest.mark.parametrize("ending", ["mp4", "h264"])
def test_a_file_that_is_no_video_is_called_by_what_it_is(tmp_path: Path, start: bytes, what: str, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(start + bytes(4096))
    with pytest.raises(MediaError, match=f"'a.{ending}' is {what}, not a video") as error:
        probe(path)
    assert error.value.kind == "no_video_stream"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Not Found", "is a text file, not a video"),
        ("Zugriff verweigert: \u00fc".encode(), "is a text file, not a video"),
        ("Access denied".encode("utf-16"), "is a text file, not a video"),
        (bytes(5000), "begins with nothing but zeros"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42\0\0\x10\0mdat" + bytes(100), "without its index"),
    ],
)
def test_a_broken_file_is_called_by_what_it_lacks(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=says) as error:
        probe(path)
    assert error.value.kind == "media_corrupt"


def test_whole_pictures_under_the_name_of_a_video_are_called_pictures(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for ending, name in ((".jpg", "JPEG"), (".png", "PNG"), (".webp", "WebP"), (".bmp", "BMP"), (".tiff", "TIFF")):
        path = tmp_path / "a.mp4"
        path.write_bytes(cv2.imencode(ending, picture)[1].tobytes())
        with pytest.raises(MediaError, match=f"is a {name} picture, not a video"):
            probe(path)


def test_raw_streams_of_other_kinds_are_read(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (tmp_path / "a.mjpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes() * 5)
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W64 H64 F25:1 C420jpeg\n" + (b"FRAME\n" + bytes(64 * 96)) * 5)
    for name in ("a.mjpg", "a.y4m"):
        assert len(read_frames(tmp_path / name, range(5))) == 5


def test_an_animated_gif_is_read_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "rgb8"
        for number in range(5):
            picture = np.full((32, 32, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="rgb8")))
        container.mux(stream.encode(None))
    assert len(read_frames(path, range(5))) == 5 and probe(path).codec == "gif"
