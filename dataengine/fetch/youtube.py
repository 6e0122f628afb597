"""Single clips from their video pages, through yt-dlp (extra 'crawl'), cut to the annotated span."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from blake3 import blake3
from pydantic import Field

from dataengine.core.errors import MediaError, MissingExtraError, RecipeError
from dataengine.core.types import Clip, Frames
from dataengine.fetch import Fetcher, Report, Site
from dataengine.fetch.transfers import Transfers
from dataengine.fetch.youtube_pages import HOSTS, Guard, origin, page_of
from dataengine.io.addresses import AllowedHosts
from dataengine.io.http_policy import refusal
from dataengine.io.storage import locked, publish

_SHARDS = 1024
"""Lock files a source: one a video would be a file for each of 650,000."""

_SAYS: tuple[tuple[str, str, bool], ...] = (
    (
        r"not a bot|rate.?limit|try again later|too many requests|will begin in|premieres in|format is not available",
        "unavailable",
        True,
    ),
    (r"in your country|your location|geo.?restrict", "geo_blocked", False),
    (
        r"private video|video is private|members.only|join this channel|confirm your age|inappropriate for some users",
        "private",
        False,
    ),
    (r"sign in|log ?in|requires payment|purchase|rental|drm protected", "private", False),
    (
        r"unavailable|removed|terminated|no longer available|not exist|deleted|closed their|not available|not found",
        "gone",
        False,
    ),
    (r"unsupported url|no video formats|no media found", "unavailable", False),
    (r"timed? ?out", "timeout", True),
)
"""(what yt-dlp's message says, reason, worth another try), first hit first."""


@dataclass(frozen=True)
class YouTube(Fetcher):
    """Downloads each clip's video with yt-dlp (extra 'crawl') and keeps the annotated span of it.

    Attributes:
        url: page of a video, with {video_id}, in place of the page that the source names.
        height: largest height of the picture that is asked for.
        crf: quality of the cut span, smaller is better and larger.
    """

    url: str | None = None
    height: Annotated[int, Field(ge=64, le=4320)] = 720
    crf: Annotated[int, Field(ge=0, le=40)] = 18
    name: str = "youtube"

    def check(self) -> None:
        """Raise MissingExtraError where yt-dlp is not installed."""
        try:
            import yt_dlp  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("the fetcher 'youtube'", "crawl") from error

    def fetch(self, clips: Sequence[Clip], site: Site, report: Report) -> None:
        """See `Fetcher.fetch`: one download per video, for all its clips; none for a video that is gone for good."""
        self.check()
        if (site.transfers.policy.proxy or "").startswith("https://"):
            raise RecipeError("[fetch] proxy: the fetcher 'youtube' takes a proxy of the form http://HOST:PORT only")
        outcomes = _Outcomes(site)
        videos: dict[str, list[Clip]] = {}
        for clip in clips:
            if clip.url is None or clip.file is None:
                report(clip.clip_id, MediaError("media_missing", "the annotation names no page of the video"))
            elif known := outcomes.known(clip):
                report(clip.clip_id, known)
            else:
                videos.setdefault(clip.video_id, []).append(clip)

        def one(group: list[Clip]) -> None:
            shard = int(blake3(group[0].video_id.encode()).hexdigest()[:8], 16) % _SHARDS
            with locked(site.state / "locks" / f"videos-{shard:04d}.lock", site.transfers.stop):
                for clip, error in self._video(group, site):
                    outcomes.keep(clip, error)
                    report(clip.clip_id, error)

        site.transfers.each(one, videos.values())

    def _video(self, clips: list[Clip], site: Site) -> Iterator[tuple[Clip, MediaError | None]]:
        """Download one video and cut its clips; (clip, None or why not) for each."""
        left = []
        for clip in clips:
            if _existing(clip, site):
                yield clip, None
            else:
                left.append(clip)
        if not left:
            return
        folder = site.state / "staging" / f"video-{blake3(clips[0].video_id.encode()).hexdigest()[:16]}"
        try:
            page = page_of(clips[0], self.url)
            hosts = site.transfers.policy.hosts.also(*HOSTS, *([origin(self.url)] if self.url else []))
            hosts.check_url(page, page)
            video = download(page, folder, site.transfers, self.height, site.max_bytes, hosts)
            for clip in left:
                try:
                    _keep(video, clip, site, self.crf)
                    yield clip, None
                except MediaError as error:
                    yield clip, error
        except MediaError as error:
            for clip in left:
                yield clip, error
            if error.retryable:
                return  # parts stay and are gone on with
        site.transfers.disk.removed(sum(path.stat().st_size for path in folder.glob("*")))
        shutil.rmtree(folder, ignore_errors=True)


class _Outcomes:
    """Remembers clips that are gone for good, per proxy and cookies: with other ones they are asked for anew."""

    def __init__(self, site: Site) -> None:
        self.path = site.state / "outcomes.jsonl"
        self.site = site
        policy = site.transfers.policy
        self.way = blake3(f"{policy.proxy}\n{policy.cookies}".encode()).hexdigest()[:8]
        self.outcomes: dict[str, MediaError] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                row = json.loads(line)
                if row["way"] == self.way and row["kind"] not in site.again:
                    self.outcomes[row["file"]] = MediaError(row["kind"], row["detail"])
            except (ValueError, KeyError, TypeError):
                continue  # a line that a crash cut off

    def known(self, clip: Clip) -> MediaError | None:
        return self.outcomes.get(clip.file or "")

    def keep(self, clip: Clip, error: MediaError | None) -> None:
        if error is not None and not error.retryable and error.kind != "host_refused":
            row = {"file": clip.file, "kind": error.kind, "detail": error.detail, "way": self.way}
            with (
                locked(self.site.state / "locks" / "outcomes.lock", self.site.transfers.stop),
                self.path.open("a") as file,
            ):
                file.write("\n" + json.dumps(row))


def _target(clip: Clip, site: Site, extension: str) -> Path:
    assert clip.file is not None
    return site.root / "crawled" / clip.split / f"{PurePosixPath(clip.file).stem}{extension}"


def _existing(clip: Clip, site: Site) -> bool:
    target = _target(clip, site, ".mp4")
    return target.is_file() or any(path.stem == target.stem for path in target.parent.glob(f"{target.stem}.*"))


def _keep(video: Path, clip: Clip, site: Site, crf: int) -> None:
    """Put the span of the clip in place, or the whole video where the source cuts the span itself."""
    from dataengine.media.decode import PyAVDecoder
    from dataengine.media.encode import write_video

    whole = PurePosixPath(str(clip.file)).stem == clip.video_id or clip.start is None
    target = _target(clip, site, video.suffix if whole else ".mp4")
    staged = video.with_name(f"cut{target.suffix}")
    staged.unlink(missing_ok=True)  # a crash may have left it
    if whole:
        staged.hardlink_to(video)
    else:
        with PyAVDecoder(max_bytes=site.max_bytes).open(video, clip.start, clip.end) as stream:
            times: list[float] = []

            def pictures() -> Iterator[Frames]:
                for batch in stream:
                    for frame, time in zip(batch.frames, batch.timestamps.tolist()):
                        times.append(max(time, 0.0))  # read by the writer as the picture is
                        yield frame

            write_video(staged, pictures(), stream.info.fps, crf=crf, timestamps=times)
    publish(staged, target)


def download(url: str, folder: Path, transfers: Transfers, height: int, max_bytes: int, hosts: AllowedHosts) -> Path:
    """The video of a page, in `folder`; what an interrupted download left there is gone on with.

    Args:
        url: of the page.
        folder: of what is under way and done.
        transfers: limits of requests, bytes and disk.
        height: largest height of the picture.
        max_bytes: largest file.
        hosts: that may be asked, redirects and the streams of the page included.

    Raises:
        MediaError: gone, private, geo_blocked, timeout, unavailable, host_refused, too_large or disk_limit.
    """
    import yt_dlp
    from yt_dlp.networking._urllib import UrllibRH

    class GuardedRH(UrllibRH):  # type: ignore[misc, unused-ignore]
        """Asks allowed hosts only, hop by hop."""

        RH_NAME = "guarded"

        def _create_instance(self, *args: Any, **kwargs: Any) -> Any:
            opener = super()._create_instance(*args, **kwargs)
            opener.add_handler(Guard(hosts, url))
            return opener

    class RateLimited(yt_dlp.YoutubeDL):  # type: ignore[misc, name-defined, unused-ignore]
        def build_request_director(self, handlers: Any, preferences: Any = None) -> Any:
            return super().build_request_director([GuardedRH], preferences)

        def urlopen(self, req: Any) -> Any:
            transfers.requests.take()
            response = super().urlopen(req)
            if response.url != getattr(req, "url", req):
                transfers.requests.take()  # it was sent on
            return response

    folder.mkdir(parents=True, exist_ok=True)

    def once() -> Path:
        with transfers.disk.reserved(1 << 20, "a video") as wrote:
            options = _options(folder, transfers, height, max_bytes, _watch(transfers, max_bytes, wrote))
            try:
                with RateLimited(options) as program:
                    for cookie in transfers.policy.jar() or ():
                        program.cookiejar.set_cookie(cookie)
                    program.download([url])
            except yt_dlp.utils.YoutubeDLError as error:
                raise explain(error) from error
        found = [path for path in sorted(folder.glob("video.*")) if path.suffix not in (".part", ".ytdl")]
        if not found:
            raise MediaError(
                "too_large", f"the video has more than {max_bytes} bytes", False, threshold=float(max_bytes)
            )
        return found[0]

    return transfers.persist(once, lambda: sum(path.stat().st_size for path in folder.glob("*")))


def _watch(transfers: Transfers, max_bytes: int, wrote: Callable[[int], None]) -> Callable[[dict[str, Any]], None]:
    """A progress hook that keeps the bandwidth and the disk budget."""
    seen: dict[str, int] = {}

    def hook(state: dict[str, Any]) -> None:
        have, name = int(state.get("downloaded_bytes") or 0), str(state.get("filename"))
        fresh, seen[name] = have - seen.get(name, 0), have
        if have > max_bytes:
            raise MediaError(
                "too_large", f"the video has more than {max_bytes} bytes", False, float(have), float(max_bytes)
            )
        if fresh > 0:
            wrote(fresh)
            transfers.bytes.take(fresh)
        if transfers.disk.left() < 0:
            raise MediaError("disk_limit", "the disk has no space for the video", True)
        transfers.requests.check()

    return hook


def _options(
    folder: Path, transfers: Transfers, height: int, max_bytes: int, hook: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    policy = transfers.policy
    return {
        # Sound is of no use, so that one stream is enough and nothing has to be merged.
        "format": f"bv*[height<=?{height}][vcodec^=avc]/bv*[height<=?{height}]/b[height<=?{height}]/bv*/b",
        "outtmpl": {"default": str(folder / "video.%(ext)s")},
        "max_filesize": max_bytes,
        "socket_timeout": policy.timeout,
        "proxy": policy.proxy,
        "progress_hooks": [hook],
        "logger": _Silence(),
        "retries": 0,  # tries are counted outside, with every other transfer
        "extractor_retries": 0,
        "fragment_retries": policy.retries,
        "skip_unavailable_fragments": False,
        "noplaylist": True,
        "external_downloader": {"default": "native"},  # a program of its own would ask any host
        "hls_prefer_native": True,
        "enable_file_urls": False,
        "cachedir": False,
        "fixup": "never",
        "updatetime": False,
        "noprogress": True,
        "color": "never",
    }


class _Silence:
    """What yt-dlp logs comes as an exception as well."""

    def debug(self, message: str) -> None: ...

    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...

    def error(self, message: str) -> None: ...


def explain(error: Exception) -> MediaError:
    """The typed reason behind an exception of yt-dlp: its class, an HTTP status, or what its message says."""
    from yt_dlp.networking.exceptions import HTTPError, TransportError
    from yt_dlp.utils import GeoRestrictedError

    said = re.sub(r"\x1b\[[0-9;]*m|^ERROR: ", "", str(error)).strip()
    detail = re.sub(r"https?://\S+", "URL", said.splitlines()[0] if said else type(error).__name__)[:300]
    causes = list(_causes(error))
    if refused := next((cause for cause in causes if isinstance(cause, MediaError)), None):
        return refused
    status = next((int(cause.status) for cause in causes if isinstance(cause, HTTPError)), None)
    if any(isinstance(cause, GeoRestrictedError) for cause in causes):
        return MediaError("geo_blocked", detail)
    if status == 403:  # video hosts answer so to links that have grown old and to those who ask often
        return MediaError("unavailable", detail, True)
    if status is not None:
        return refusal(status, detail)
    if any(isinstance(cause, TimeoutError | TransportError) for cause in causes):
        late = re.search(r"time(d|s)? ?out", said, re.IGNORECASE) is not None
        return MediaError("timeout" if late else "unavailable", detail, True)
    for words, kind, retryable in _SAYS:
        if re.search(words, said, re.IGNORECASE):
            return MediaError(kind, detail, retryable)
    return MediaError("unavailable", detail, True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        info = getattr(one, "exc_info", None)
        waiting += [
            one.__cause__,
            one.__context__,
            getattr(one, "cause", None),
            info[1] if isinstance(info, tuple) else None,
        ]
