"""Archives of a mirror: those that are needed, once, whoever asks; no clip lost, whatever the servers do."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dataengine.core.errors import MediaError, RecipeError, SourceError
from dataengine.core.types import Clip
from dataengine.fetch import Site
from dataengine.fetch.mirror import Archives, annotate
from dataengine.fetch.mirrors import File, Mirror, load_mirrors, mirror
from dataengine.fetch.transfers import Transfers
from dataengine.io.http_policy import HttpPolicy
from tests.support.faulty_server import Server, corrupt, cut, reset, serving, stall, status
from tests.support.loopback_mirrors import tarball

NAMES = [f"video{n:06d}_{n:06d}_{n + 10:06d}" for n in range(12)]
LABELS = ["squat", "high kick", "jogging"]
QUICK = HttpPolicy(rate=1000, retries=2, timeout=0.5, pause=0.01)


def media(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * 100


def clip(number: int, split: str = "train") -> Clip:
    return Clip(
        f"k-{number}", "k", NAMES[number][:11], "", split=split, label=LABELS[number % 3], file=f"{NAMES[number]}.mp4"
    )


CLIPS = [clip(n) for n in range(9)]


@pytest.fixture()
def server() -> Iterator[Server]:
    """Nine clips in three archives of a split."""
    with serving() as running:
        for part in range(3):
            members = [(f"{LABELS[n % 3]}/{NAMES[n]}.mp4", media(n)) for n in range(3 * part, 3 * part + 3)]
            running.files[f"train/part_{part}.tar.gz"] = tarball(members)
        running.files["train/list.txt"] = (
            b"http://official.example/k/train/part_0.tar.gz\ntrain/part_1.tar.gz\n\npart_2.tar.gz\n"
        )
        yield running


def site(server: Server | str, root: Path, network: HttpPolicy = QUICK, **changes: object) -> Site:
    facts = {
        "base": server if isinstance(server, str) else server.base,
        "official": "https://official.example/k/",
        "licence": "test",
        "lists": {"train": "train/list.txt"},
    }
    return Site("k", root / "k", Mirror(**{**facts, **changes}), Transfers(network, root), 1 << 30)  # type: ignore[arg-type]


def fetch(place: Site, clips: list[Clip] = CLIPS, keep: bool = False) -> dict[str, str | None]:
    """Clip id -> reason, or None where the file is there, whole."""
    place.root.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, str | None] = {}

    def report(clip_id: str, error: MediaError | None) -> None:
        assert clip_id not in outcomes, "told twice"
        outcomes[clip_id] = error and f"{error.kind}{'?' if error.retryable else ''}"

    Archives(keep=keep).fetch(clips, place, report)
    assert set(outcomes) == {one.clip_id for one in clips}
    for path in place.root.rglob("*.mp4"):
        assert path.read_bytes() == media(NAMES.index(path.stem)), "a torn file was kept"
    on_disk = {path.stem for path in place.root.rglob("*.mp4")}
    assert all(
        (outcome is None) == (str(one.file)[:-4] in on_disk) for one in clips for outcome in [outcomes[one.clip_id]]
    )
    return outcomes


def archives(server: Server) -> list[str]:
    return [entry[2] for entry in server.log if entry[2].endswith("gz")]


def test_every_clip_is_found_wherever_it_lies(server: Server, tmp_path: Path) -> None:
    assert set(fetch(site(server, tmp_path)).values()) == {None}
    assert sorted(archives(server)) == [f"train/part_{n}.tar.gz" for n in range(3)]
    assert not list((tmp_path / "k/.fetch/archives").iterdir()), "archives are not kept"


def test_only_what_the_plan_needs_and_no_more_than_that(server: Server, tmp_path: Path) -> None:
    fetch(site(server, tmp_path, HttpPolicy(connections=1, rate=1000)), CLIPS[:3])
    assert archives(server) == ["train/part_0.tar.gz"] and len(list(tmp_path.rglob("*.mp4"))) == 3
    server.log.clear()
    assert fetch(site(server, tmp_path, HttpPolicy(connections=1, rate=1000)), [clip(3), clip(4)]) == {
        "k-3": None,
        "k-4": None,
    }
    assert archives(server) == ["train/part_1.tar.gz"], "the first archive is known to hold neither, the list is known"


def test_an_archive_is_known_by_what_it_held(server: Server, tmp_path: Path) -> None:
    fetch(site(server, tmp_path), CLIPS[::4])
    server.log.clear()
    assert fetch(site(server, tmp_path), [clip(4), clip(7), clip(8)])["k-7"] is None
    assert [entry[2] for entry in server.log] == ["train/part_2.tar.gz"]


def test_kept_archives_are_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    fetch(site(server, tmp_path), CLIPS[::4], keep=True)
    server.log.clear()
    fetch(site(server, tmp_path), CLIPS, keep=True)
    assert not server.log


def test_a_clip_that_no_archive_holds(server: Server, tmp_path: Path) -> None:
    assert fetch(site(server, tmp_path), [clip(0), clip(11), clip(10, "val")]) == {
        "k-0": None,
        "k-11": "media_missing",
        "k-10": "media_missing",
    }
    server.log.clear()
    assert fetch(site(server, tmp_path), [clip(11)]) == {"k-11": "media_missing"} and not server.log


def test_archives_named_by_class_are_chosen_by_label(server: Server, tmp_path: Path) -> None:
    for number, label in enumerate(LABELS):
        server.files[f"c/{label}.tar.gz"] = tarball((f"{NAMES[n]}.mp4", media(n)) for n in range(number, 12, 3))
    server.files["c/list.txt"] = b"c/squat.tar.gz\nc/high%20kick.tar.gz\nc/jogging.tar.gz\n"
    place = site(server, tmp_path, lists={"train": "c/list.txt"}, by_class=["train"])
    assert fetch(place, [clip(1), clip(4)]) == {"k-1": None, "k-4": None}
    assert archives(server) == ["c/high kick.tar.gz"]


def test_replacements_come_first(server: Server, tmp_path: Path) -> None:
    server.files["fixed.tgz"] = tarball([(f"fixed/{NAMES[4]}.mp4", media(4))])
    place = site(server, tmp_path, archives=[File(path="fixed.tgz", into="replacement")])
    assert fetch(place, [clip(4)]) == {"k-4": None} and archives(server) == ["fixed.tgz"]
    assert (tmp_path / f"k/replacement/fixed/{NAMES[4]}.mp4").is_file()


PASSING = {
    "stall": [stall(200)],
    "cut": [cut(500), cut(500)],
    "corrupt": [corrupt],
    "reset": [reset],
    "busy": [status(503, Retry_After="0")],
}


@pytest.mark.parametrize("fault", PASSING)
def test_no_clip_is_lost_to_what_passes(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults["train/part_1.tar.gz"] = list(PASSING[fault])
    server.faults["train/list.txt"] = [reset, status(500)]
    assert set(fetch(site(server, tmp_path)).values()) == {None}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (stall(200), "timeout?"),
        (cut(5), "unavailable?"),
        (corrupt, "corrupt?"),
        (status(404), "gone"),
        (status(403), "private"),
        (status(451), "geo_blocked"),
        (status(500), "unavailable?"),
    ],
)
def test_what_does_not_pass_is_told_and_only_that_is_tried_again(
    server: Server, tmp_path: Path, fault: object, outcome: str
) -> None:
    server.always["train/part_1.tar.gz"] = fault  # type: ignore[assignment]
    found = fetch(site(server, tmp_path))
    assert [found[f"k-{n}"] for n in range(9)] == [None] * 3 + [outcome] * 3 + [None] * 3
    server.always.clear()
    server.log.clear()
    assert set(fetch(site(server, tmp_path), [clip(n) for n in (3, 4, 5)]).values()) == {None}
    assert {entry[2] for entry in server.log} == {"train/part_1.tar.gz"}


def test_the_list_itself_may_fail(server: Server, tmp_path: Path) -> None:
    server.always["train/list.txt"] = status(500)
    assert set(fetch(site(server, tmp_path)).values()) == {"unavailable?"}
    server.always["train/list.txt"] = lambda handler, body: handler.send(
        200, b"train/part_0.tar.gz\n<html>a login page</html>"
    )
    assert set(fetch(site(server, tmp_path)).values()) == {"corrupt?"}
    server.always.clear()
    assert set(fetch(site(server, tmp_path)).values()) == {None}


def test_a_member_that_is_too_large_fails_alone(server: Server, tmp_path: Path) -> None:
    place = replace(site(server, tmp_path), max_bytes=3500)
    members = [(f"{NAMES[0]}.mp4", b"x" * 4000), (f"{NAMES[1]}.mp4", media(1)), (f"{NAMES[2]}.mp4", media(2))]
    server.files["train/part_0.tar.gz"] = tarball(members)
    found = fetch(place)
    assert found.pop("k-0") == "too_large" and set(found.values()) == {None}
    server.log.clear()
    assert fetch(place, [clip(0)]) == {"k-0": "too_large"} and not server.log


def crew(base: str, root: Path) -> None:
    found = fetch(site(base, root))
    assert set(found.values()) == {None}


def test_processes_share_the_work(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    crews = [context.Process(target=crew, args=(server.base, tmp_path)) for _ in range(2)]
    for one in crews:
        one.start()
    for one in crews:
        one.join(60)
    assert [one.exitcode for one in crews] == [0] * 2
    assert sorted(archives(server)) == [f"train/part_{n}.tar.gz" for n in range(3)], "each archive was downloaded once"


def test_annotations_are_completed_and_never_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.files |= {
        "annotations/train.csv": b"label,youtube_id\n",
        "annotations/all.tar.gz": tarball([("k/val.csv", b"x"), ("k/a.mp4", b"x")]),
    }
    place = site(
        server,
        tmp_path,
        annotations=[
            File(path="annotations/train.csv"),
            File(path="annotations/all.tar.gz", url="https://elsewhere/x.tar.gz"),
        ],
    )
    server.faults["annotations/train.csv"] = [cut(3)]
    annotate(place)
    found = sorted(
        str(p.relative_to(place.root / "annotations")) for p in (place.root / "annotations").rglob("*") if p.is_file()
    )
    assert found == ["k/val.csv", "train.csv"]
    server.log.clear()
    annotate(place)
    assert not server.log
    (place.root / "annotations/train.csv").unlink()
    server.always["annotations/train.csv"] = status(404)
    with pytest.raises(
        SourceError, match=r"'k': its annotations cannot be had: train.csv: the server answers 404 \(gone\)"
    ):
        annotate(place)


def test_annotations_within_the_archive_cost_one_download(server: Server, tmp_path: Path) -> None:
    content = tarball(
        [
            ("cap/annotations/a.json", b"[]"),
            (f"cap/videos/{NAMES[0]}.mp4", media(0)),
            (f"cap/videos/{NAMES[1]}.mp4", media(1)),
        ]
    )
    server.files["cap.tar.gz"] = content
    facts = {"lists": {}, "archives": [File(path="cap.tar.gz", md5=hashlib.md5(content).hexdigest())]}
    annotate(site(server, tmp_path, **facts))
    assert [p.name for p in (tmp_path / "k/cap").rglob("*") if p.is_file()] == ["a.json"]
    assert fetch(site(server, tmp_path, **facts), [clip(0)]) == {"k-0": None}
    assert archives(server) == ["cap.tar.gz"] and not list((tmp_path / "k/.fetch/archives").iterdir())
    server.always["cap.tar.gz"] = corrupt
    assert fetch(site(server, tmp_path, **facts), [clip(1)]) == {"k-1": "corrupt?"}


def test_the_packaged_list_is_valid_and_names_its_sources() -> None:
    from dataengine.fetch.mirrors import mirror_tables

    where, tables = mirror_tables("mirrors")
    urls = tables.pop("evaluation_lists")
    assert all(url.startswith("https://") for url in urls.values())
    for name in tables:
        found = mirror(tables, name, None, where)
        assert (
            found is not None
            and found.licence
            and found.base.startswith("https://")
            and (found.annotations or found.archives)
        )
    other = mirror(tables, "kinetics700", "http://127.0.0.1:1/x", where)
    assert other is not None
    assert (
        other.at("http://s3.amazonaws.com/kinetics/700_2020/val/a%20b.tar.gz")
        == "http://127.0.0.1:1/x/val/a%20b.tar.gz"
    )
    assert other.url(other.annotations[0]) == "http://127.0.0.1:1/x/annotations/kinetics700.tar.gz"


def test_mistakes_in_a_list_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("[k")
    with pytest.raises(RecipeError, match=r"m\.toml cannot be read as TOML"):
        load_mirrors(tmp_path / "m.toml")
    with pytest.raises(RecipeError, match=r"list \[k\] base"):
        mirror({"k": {"base": "ftp://x/", "licence": ""}}, "k", None, "list")
    with pytest.raises(RecipeError, match=r"list \[k\] lise"):
        mirror({"k": {"base": "https://x/", "licence": "", "lise": {}}}, "k", None, "list")
    with pytest.raises(RecipeError, match="no table for 'folder'"):
        mirror({}, "folder", "https://x/", "list")
    assert mirror({}, "folder", None, "list") is None
    with pytest.raises(RecipeError, match="no secrets"):
        mirror({"k": {"base": "https://x/", "licence": ""}}, "k", "https://me:secret@x/", "list")
    from dataengine.fetch.mirrors import mirror_tables

    with pytest.raises(RecipeError, match=r"mirrors = 'mirors': no such list"):
        mirror_tables("mirors")
