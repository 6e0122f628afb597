"""Archives that are torn, damaged or hostile leave nothing behind, and nothing anywhere else."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dataengine.core.errors import MediaError
from dataengine.fetch import archives
from dataengine.fetch.archives import Extracted, extract, safe_name
from dataengine.io.disk_budget import DiskBudget

VIDEO = os.urandom(50_000)


def member(
    name: str, data: bytes = VIDEO, kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(1024)


def unpack(
    tmp_path: Path,
    content: bytes,
    select: Callable[[str], bool] = lambda name: True,
    max_bytes: int = 1 << 30,
    disk: DiskBudget | None = None,
) -> Extracted:
    (tmp_path / "a.tar.gz").write_bytes(content)
    (tmp_path / "out").mkdir(exist_ok=True)
    return extract(
        tmp_path / "a.tar.gz",
        tmp_path / "out",
        tmp_path / "staging",
        select,
        disk=disk or DiskBudget(tmp_path),
        max_bytes=max_bytes,
    )


def there(tmp_path: Path) -> list[str]:
    assert not (tmp_path / "staging").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "out"]
    return sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if not p.is_dir())


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_only_what_is_wanted_is_unpacked_gzipped_or_not(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = pack(member("./class a/v1.mp4") + member("class b/v2.mp4") + member("readme.txt", b"x") + END)
    found = unpack(tmp_path, content, lambda name: name.endswith("v1.mp4"))
    assert list(found.sizes) == ["class a/v1.mp4", "class b/v2.mp4", "readme.txt"] and there(tmp_path) == [
        "class a/v1.mp4"
    ]
    assert (tmp_path / "out/class a/v1.mp4").read_bytes() == VIDEO == found.written["class a/v1.mp4"].read_bytes()


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/v1.mp4").write_bytes(b"mine")
    found = unpack(tmp_path, gzip.compress(member("v1.mp4") + END))
    assert (tmp_path / "out/v1.mp4").read_bytes() == b"mine" and list(found.written) == ["v1.mp4"]


HOSTILE = {
    "absolute": member("/tmp/evil.mp4"),
    "upwards": member("../evil.mp4"),
    "upwards within": member("a/../../evil.mp4"),
    "backslash": member("..\\evil.mp4"),
    "hidden": member(".fetch/records/evil.mp4"),
    "link": member("evil.mp4", b"", tarfile.SYMTYPE, "/etc/passwd"),
    "folder link": member("dir", b"", tarfile.SYMTYPE, "/tmp") + member("../dir/evil.mp4"),
    "hard link": member("evil.mp4", b"", tarfile.LNKTYPE, "/etc/passwd"),
    "pipe": member("evil.mp4", b"", tarfile.FIFOTYPE),
    "device": member("evil.mp4", b"", tarfile.CHRTYPE),
    "long": member("a" * 90 + "/" + "b" * 9) + member("x" * 99),
    "empty name": member("./"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_passed_over(tmp_path: Path, name: str) -> None:
    unpack(tmp_path, gzip.compress(HOSTILE[name] + member("good.mp4") + END), lambda found: found.endswith(".mp4"))
    assert (
        there(tmp_path) == ["good.mp4"]
        and not Path("/tmp/evil.mp4").exists()
        and not (tmp_path.parent / "evil.mp4").exists()
    )


def test_a_link_to_elsewhere_within_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out/a").symlink_to(elsewhere)
    (tmp_path / "out/b").write_bytes(b"")
    found = unpack(tmp_path, gzip.compress(member("a/sub/v.mp4") + member("b/v.mp4") + END))
    assert not list(elsewhere.iterdir()) and {name: error.kind for name, error in found.refused.items()} == {
        "a/sub/v.mp4": "not_a_file",
        "b/v.mp4": "not_a_file",
    }


def sparse() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("evil.mp4")
        info.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.size": str(1 << 40),
            "GNU.sparse.map": "0,1",
        }
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    return content.getvalue()


def test_a_sparse_file_is_passed_over(tmp_path: Path) -> None:
    unpack(tmp_path, sparse())
    assert there(tmp_path) == []


def test_a_large_member_is_refused_by_its_name(tmp_path: Path) -> None:
    found = unpack(tmp_path, gzip.compress(member("big.mp4") + member("small.mp4", b"x") + END), max_bytes=1000)
    assert found.refused["big.mp4"].kind == "too_large" and there(tmp_path) == ["small.mp4"]


def test_there_must_be_room(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    disk = DiskBudget(tmp_path, 60_000)
    with pytest.raises(MediaError, match="disk_limit"):
        unpack(tmp_path, gzip.compress(member("a.mp4") + member("b.mp4") + END), disk=disk)
    assert there(tmp_path) == [] and disk.left() == 60_000


GOOD = member("a.mp4") + member("b.mp4") + END
TORN = {
    "empty": b"",
    "page": b"<html>Not found</html>" * 100,
    "gzipped page": gzip.compress(b"<html>" * 1000),
    "cut gzip": gzip.compress(GOOD)[:-2000],
    "cut gzip trailer": gzip.compress(GOOD)[:-4],
    "wrong checksum": gzip.compress(GOOD)[:-8] + b"\0\0\0\0" + gzip.compress(GOOD)[-4:],
    "cut within a member": GOOD[:30_000],
    "cut between members": member("a.mp4"),
    "cut between members, gzipped": gzip.compress(member("a.mp4")),
    "damaged header": member("a.mp4") + b"\xff" * 512 + member("b.mp4") + END,
    "damaged data": gzip.compress(GOOD, 1)[:40_000] + b"\xff" * 64 + gzip.compress(GOOD, 1)[40_064:],
    "negative size": member("a.mp4")[:124] + b"-0000000001\0" + member("a.mp4")[136:] + END,
    "huge header": member("x", b"", tarfile.XHDTYPE, size=1 << 33),
    "huge long name": member("x", b"", tarfile.GNUTYPE_LONGNAME, size=1 << 33),
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_archive_gives_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError) as caught:
        unpack(tmp_path, TORN[name])
    assert caught.value.kind == "corrupt" and caught.value.retryable and there(tmp_path) == []


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bomb_is_defused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    monkeypatch.setattr(archives, "_SLACK", 1 << 20)
    bomb = gzip.compress(member("a.mp4", bytes(40 << 20)) + END)
    with pytest.raises(MediaError, match="times its size"):
        unpack(tmp_path, bomb, lambda name: wanted)
    assert there(tmp_path) == []


def test_a_member_that_claims_more_than_there_is(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="corrupt"):
        unpack(tmp_path, gzip.compress(member("a.mp4", VIDEO, size=100_000) + END))
    assert there(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b.mp4", "a/b.mp4"),
        ("./a//b.mp4", "a/b.mp4"),
        ("a/./b", "a/b"),
        ("", None),
        ("/", None),
        ("..", None),
        ("a\0b", None),
        ("a/..", None),
        ("a\udcff", None),
        ("x" * 300, None),
        ("ä/é.mp4", "ä/é.mp4"),
    ],
)
def test_names(name: str, safe: str | None) -> None:
    assert safe_name(name) == safe
