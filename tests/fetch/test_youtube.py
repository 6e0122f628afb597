"""Single clips from video pages on loopback: cut to their spans, failures typed, no video asked for twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import MediaError, MissingExtraError
from dataengine.core.types import Clip
from dataengine.fetch import Site
from dataengine.fetch.transfers import Transfers
from dataengine.fetch.youtube import YouTube, explain
from dataengine.io.http_policy import HttpPolicy
from dataengine.media.decode import PyAVDecoder
from dataengine.media.encode import write_video
from dataengine.media.probe import probe
from dataengine.sources.kinetics import Kinetics
from tests.support.faulty_server import Server, reset, serving, stall, status

yt_dlp = pytest.importorskip("yt_dlp", reason="needs the extra 'crawl'")

VIDEO = "abcdefghijk"
QUICK = HttpPolicy(rate=1000, retries=2, timeout=2.0, pause=0.01)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Eight seconds at 5 frames a second; the grey of a frame tells its number."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, (np.full((48, 64, 3), 5 * n + 30, np.uint8) for n in range(40)), 5, crf=1)
    return path.read_bytes()


@pytest.fixture()
def server(film: bytes) -> Iterator[Server]:
    with serving() as running:
        running.files[f"{VIDEO}.mp4"] = film
        yield running


def clip(start: int, end: int, video: str = VIDEO) -> Clip:
    url = f"https://www.youtube.com/watch?v={video}"
    return Clip(
        f"k-{video}-{start}-{end}", "k", video, "", start, end, url=url, file=f"{video}_{start:06d}_{end:06d}.mp4"
    )


def fetch(
    server: Server, root: Path, clips: list[Clip], network: HttpPolicy = QUICK, max_bytes: int = 1 << 30
) -> dict[str, MediaError | None]:
    site = Site("k", root / "k", None, Transfers(network, root), max_bytes)
    site.root.mkdir(exist_ok=True)
    outcomes: dict[str, MediaError | None] = {}
    YouTube(url=f"{server.base}{{video_id}}.mp4").fetch(
        clips, site, lambda clip_id, error: outcomes.update({clip_id: error})
    )
    assert set(outcomes) == {one.clip_id for one in clips}
    return outcomes


def greys(path: Path) -> list[int]:
    with PyAVDecoder().open(path) as video:
        return [round((float(frame.mean()) - 30) / 5) for batch in video for frame in batch.frames]


def test_spans_are_cut_exactly_and_the_video_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    clips = [clip(1, 4), clip(5, 7)]
    assert set(fetch(server, tmp_path, clips).values()) == {None}
    assert server.asked(f"{VIDEO}.mp4") == 2, "one look at the page, one download"
    folder = tmp_path / "k/crawled/train"
    assert greys(folder / f"{VIDEO}_000001_000004.mp4") == list(range(5, 20))
    assert greys(folder / f"{VIDEO}_000005_000007.mp4") == list(range(25, 35))
    assert probe(folder / f"{VIDEO}_000005_000007.mp4").fps == 5
    assert not list((tmp_path / "k/.fetch/staging").iterdir())
    server.log.clear()
    assert set(fetch(server, tmp_path, clips).values()) == {None} and not server.log


def test_the_source_finds_what_was_crawled(server: Server, tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    (tmp_path / "k/train.csv").write_text(
        f"label,youtube_id,time_start,time_end,split\nsquat,{VIDEO},1,3,train\nsquat,{VIDEO},1.5,3.5,train\n"
    )
    clips = [replace(one, source="k") for one in Kinetics().discover(tmp_path / "k")]
    assert set(fetch(server, tmp_path, clips).values()) == {None}
    cut, whole = Kinetics().discover(tmp_path / "k")
    assert cut.media == f"crawled/train/{VIDEO}_000001_000003.mp4" and cut.span_start is None
    assert whole.media == f"crawled/train/{VIDEO}.mp4" and (whole.span_start, whole.span_end) == (1.5, 3.5)


def test_a_cut_that_a_crash_left_is_no_obstacle(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(clip(1, 4), file=f"{VIDEO}.mp4")
    with monkeypatch.context() as broken:
        broken.setattr("dataengine.fetch.youtube.publish", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path, [whole])
    (left,) = (tmp_path / "k/.fetch/staging").glob("*/cut.mp4")
    assert left.is_file()
    assert set(fetch(server, tmp_path, [whole]).values()) == {None}
    assert (tmp_path / f"k/crawled/train/{VIDEO}.mp4").read_bytes() == server.files[f"{VIDEO}.mp4"]


def test_a_video_that_is_too_short_says_so(server: Server, tmp_path: Path) -> None:
    found = fetch(server, tmp_path, [clip(2, 3), clip(20, 30)])
    assert found[f"k-{VIDEO}-2-3"] is None
    error = found[f"k-{VIDEO}-20-30"]
    assert error is not None and error.kind == "span_empty" and not error.retryable
    server.log.clear()
    again = fetch(server, tmp_path, [clip(20, 30)])[f"k-{VIDEO}-20-30"]
    assert again is not None and again.kind == "span_empty" and not server.log


@pytest.mark.parametrize(
    ("fault", "kind", "retryable"),
    [
        (status(404), "gone", False),
        (status(410), "gone", False),
        (status(451), "geo_blocked", False),
        (status(401), "private", False),
        (status(403), "unavailable", True),
        (status(429), "unavailable", True),
        (status(500), "unavailable", True),
        (reset, "unavailable", True),
        (stall(100), "timeout", True),
    ],
)
def test_failures_are_typed_and_the_lasting_ones_remembered(
    server: Server, tmp_path: Path, fault: object, kind: str, retryable: bool
) -> None:
    server.always[f"{VIDEO}.mp4"] = fault  # type: ignore[assignment]
    quick = replace(QUICK, timeout=0.4, retries=1)
    (error,) = fetch(server, tmp_path, [clip(1, 2)], quick).values()
    assert error is not None and (error.kind, error.retryable) == (kind, retryable), error
    assert not list(tmp_path.rglob("*_000001_000002.mp4"))
    server.always.clear()
    server.log.clear()
    (error,) = fetch(server, tmp_path, [clip(1, 2)], quick).values()
    assert (error is None) == retryable and bool(server.log) == retryable
    if not retryable:  # another way to the network is worth asking anew
        (tmp_path / "cookies.txt").write_text("# Netscape HTTP Cookie File\n")
        (error,) = fetch(server, tmp_path, [clip(1, 2)], replace(quick, cookies=str(tmp_path / "cookies.txt"))).values()
        assert error is None


def test_what_passes_is_waited_out(server: Server, tmp_path: Path) -> None:
    server.faults[f"{VIDEO}.mp4"] = [status(503), reset]
    assert set(fetch(server, tmp_path, [clip(1, 2)]).values()) == {None}


def test_sizes_are_limited(server: Server, tmp_path: Path) -> None:
    (error,) = fetch(server, tmp_path, [clip(1, 2)], max_bytes=1000).values()
    assert error is not None and error.kind == "too_large"


def test_requests_are_paced(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, [clip(1, 2)], replace(QUICK, rate=4.0))
    times = [entry[0] for entry in server.log]
    assert len(times) >= 2 and times[-1] - times[0] > 0.25 * (len(times) - 1) - 0.15


def test_a_clip_without_a_page(server: Server, tmp_path: Path) -> None:
    (error,) = fetch(server, tmp_path, [replace(clip(1, 2), url=None)]).values()
    assert error is not None and error.kind == "media_missing"


@pytest.mark.parametrize(
    ("said", "kind", "retryable"),
    [
        ("Private video. Sign in if you've been granted access to this video", "private", False),
        ("Join this channel to get access to members-only content like this video", "private", False),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", "private", False),
        ("Sign in to confirm you're not a bot. Use --cookies", "unavailable", True),
        ("The uploader has not made this video available in your country", "geo_blocked", False),
        (
            "Video unavailable. This video contains content from X, "
            "who has blocked it in your country on copyright grounds",
            "geo_blocked",
            False,
        ),
        ("Video unavailable. This video has been removed by the uploader", "gone", False),
        (
            "This video is no longer available because the YouTube account associated with it has been terminated.",
            "gone",
            False,
        ),
        ("Video unavailable. This content isn't available, try again later.", "unavailable", True),
        ("Unable to download webpage: The read operation timed out", "timeout", True),
        ("Something never seen before", "unavailable", True),
    ],
)
def test_messages_are_understood(said: str, kind: str, retryable: bool) -> None:
    error = explain(yt_dlp.utils.DownloadError(f"\x1b[0;31mERROR:\x1b[0m [youtube] {VIDEO}: {said}"))
    assert (error.kind, error.retryable) == (kind, retryable) and "\x1b" not in error.detail


def test_classes_come_before_messages() -> None:
    try:
        raise yt_dlp.utils.GeoRestrictedError("not for you")
    except yt_dlp.utils.GeoRestrictedError:
        error = yt_dlp.utils.DownloadError("x", sys.exc_info())
    assert explain(error).kind == "geo_blocked"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(MissingExtraError, match="crawl"):
        YouTube().check()
