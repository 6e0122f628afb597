"""What mirrors, redirects and annotations name leads to no host that the mirror list or the recipe does not name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dataengine.builder import resolve
from dataengine.core.errors import MediaError, RecipeError
from dataengine.core.types import Clip
from dataengine.fetch import Site
from dataengine.fetch.mirror import Archives
from dataengine.fetch.mirrors import Mirror
from dataengine.fetch.transfers import Transfers
from dataengine.fetch.youtube import YouTube
from dataengine.fetch.youtube_pages import page_of
from dataengine.io.addresses import AllowedHosts
from dataengine.io.http_policy import HttpPolicy
from dataengine.passes.download import Downloads
from tests.support.faulty_server import Server, redirect, serving
from tests.support.loopback_mirrors import tarball

QUICK = HttpPolicy(rate=1000, retries=1, timeout=2.0, pause=0.01)
NAMES = [f"video{n:06d}_000000_000010" for n in range(2)]
CLIPS = [Clip(f"k-{n}", "k", name[:11], "", split="train", file=f"{name}.mp4") for n, name in enumerate(NAMES)]


@pytest.fixture()
def mirror() -> Iterator[Server]:
    with serving() as running:
        running.files["train/list.txt"] = b"train/one.tar.gz\n"
        yield running


@pytest.fixture()
def inside() -> Iterator[Server]:
    """A server that nobody named."""
    with serving() as running:
        running.files["two.tar.gz"] = tarball([(f"{NAMES[1]}.mp4", b"inside")])
        running.files["film.mp4"] = b"inside"
        yield running


def place(root: Path, mirror: Server, *hosts: str) -> Site:
    table = Mirror(base=mirror.base, licence="test", lists={"train": "train/list.txt"})
    policy = replace(QUICK, hosts=AllowedHosts.of(hosts, [mirror.base]))
    return Site("k", root / "k", table, Transfers(policy, root), 1 << 30)


def fetched(site: Site, fetcher: Archives | YouTube, clips: list[Clip]) -> dict[str, MediaError | None]:
    site.root.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, MediaError | None] = {}
    fetcher.fetch(clips, site, lambda clip_id, error: outcomes.update({clip_id: error}))
    return outcomes


def test_a_line_of_a_mirrors_list_may_not_name_another_host(mirror: Server, inside: Server, tmp_path: Path) -> None:
    mirror.files["train/one.tar.gz"] = tarball([(f"{NAMES[0]}.mp4", b"one")])
    mirror.files["train/list.txt"] += f"{inside.base}two.tar.gz\n".encode()
    found = fetched(place(tmp_path, mirror), Archives(), CLIPS)
    assert found["k-0"] is None, "the other archives of the list are fetched"
    error = found["k-1"]
    assert error is not None and error.kind == "host_refused" and not error.retryable
    allow = f"http://127.0.0.1:{inside.server_address[1]}"
    assert f'to allow it add "{allow}" to [fetch] hosts' in error.detail
    assert not inside.log
    assert fetched(place(tmp_path, mirror, allow), Archives(), CLIPS)["k-1"] is None


@pytest.mark.parametrize("line", ["file:///etc/passwd.tar", "//127.0.0.1:1/a.tar", "ftp://127.0.0.1/a.tar"])
def test_a_line_of_a_mirrors_list_leads_to_no_other_scheme(mirror: Server, tmp_path: Path, line: str) -> None:
    mirror.files["train/list.txt"] = f"{line}\n".encode()
    error = fetched(place(tmp_path, mirror), Archives(), CLIPS[:1])["k-0"]
    assert error is not None and error.kind == "host_refused"


def test_a_redirect_of_a_mirror_may_not_leave_it(mirror: Server, inside: Server, tmp_path: Path) -> None:
    mirror.always["train/one.tar.gz"] = redirect(f"{inside.base}two.tar.gz")
    found = fetched(place(tmp_path, mirror), Archives(), CLIPS)
    assert {error and error.kind for error in found.values()} == {"host_refused"}
    assert not inside.log


def cap(url: str, video: str = "V1") -> Clip:
    return Clip(f"cap-{video}", "cap", video, "", 0, 1, url=url, file=f"{video}.mp4")


def test_the_url_of_an_annotation_may_not_name_any_host(mirror: Server, inside: Server, tmp_path: Path) -> None:
    pytest.importorskip("yt_dlp", reason="needs the extra 'crawl'")
    row = cap(f"{inside.base}film.mp4")
    for _ in range(2):  # it is not remembered as gone for good
        error = fetched(place(tmp_path, mirror), YouTube(), [row])["cap-V1"]
        assert error is not None and error.kind == "host_refused" and "[fetch] hosts" in error.detail
    assert not inside.log
    named = fetched(place(tmp_path, mirror, f"http://127.0.0.1:{inside.server_address[1]}"), YouTube(), [row])
    assert inside.log and (named["cap-V1"] is None or named["cap-V1"].kind != "host_refused")


def test_a_page_may_not_send_the_crawler_elsewhere(mirror: Server, inside: Server, tmp_path: Path) -> None:
    pytest.importorskip("yt_dlp", reason="needs the extra 'crawl'")
    mirror.always["film.mp4"] = redirect(f"{inside.base}film.mp4")
    mirror.files["page"] = f'<html><video src="{inside.base}film.mp4"></video></html>'.encode()
    for name in ("film.mp4", "page"):
        error = fetched(place(tmp_path / name, mirror), YouTube(), [cap(f"{mirror.base}{name}")])["cap-V1"]
        assert error is not None and error.kind in ("host_refused", "unavailable")
    assert mirror.asked("film.mp4") and mirror.asked("page") and not inside.log


def test_a_proxy_that_the_crawler_cannot_use_is_named(mirror: Server, tmp_path: Path) -> None:
    pytest.importorskip("yt_dlp", reason="needs the extra 'crawl'")
    behind = Transfers(replace(QUICK, proxy="https://proxy.example:3128"), tmp_path)
    with pytest.raises(RecipeError, match="takes a proxy of the form http://HOST:PORT only"):
        fetched(replace(place(tmp_path, mirror), transfers=behind), YouTube(), [cap("https://youtu.be/abcdefghijk")])


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("https://www.youtube.com/watch?v=abcdefghijk", "https://www.youtube.com/watch?v=abcdefghijk"),
        ("http://youtube.com/watch?v=abcdefghijk&list=PL1&index=4", "https://www.youtube.com/watch?v=abcdefghijk"),
        ("https://youtu.be/abcdefghijk?t=3", "https://www.youtube.com/watch?v=abcdefghijk"),
        ("https://m.youtube.com/shorts/abcdefghijk", "https://www.youtube.com/watch?v=abcdefghijk"),
        ("https://www.youtube.com/redirect?q=http://127.0.0.1/", None),
        ("https://www.youtube.com/watch?v=../../redirect", None),
        ("https://www.youtube.com/playlist?list=PL1", None),
    ],
)
def test_a_page_of_youtube_is_made_of_its_id_alone(url: str, page: str | None) -> None:
    if page is None:
        with pytest.raises(MediaError, match="names no video"):
            page_of(cap(url))
    else:
        assert page_of(cap(url)) == page


def test_an_id_cannot_leave_the_page_of_a_template() -> None:
    row = cap("", "../@127.0.0.1/#?x=")
    assert page_of(row, "https://a.example/{video_id}.mp4") == "https://a.example/..%2F%40127.0.0.1%2F%23%3Fx%3D.mp4"


def test_a_build_asks_the_hosts_of_its_mirror_list_and_recipe_alone(tmp_path: Path) -> None:
    told = ['sources.kinetics700.mirror="http://10.0.0.8/k"', 'fetch.hosts=["media.example", "http://nas"]']
    recipe = resolve("posecap", "kinetics700", "core", told)
    with Downloads(recipe, str(tmp_path / "data")) as downloads:
        (site,) = downloads.sites.values()
        hosts = site.transfers.policy.hosts
    for url in ("http://10.0.0.8/k/a", "https://s3.amazonaws.com/kinetics/a", "https://media.example/", "http://nas/"):
        hosts.check_url(url, url)
    for url in (
        "http://s3.amazonaws.com/kinetics/a",
        "https://github.com/",
        "http://media.example/",
        "http://10.0.0.9/",
    ):
        with pytest.raises(MediaError):
            hosts.check_url(url, url)
    assert hosts.private == {"10.0.0.8", "media.example", "nas"}
