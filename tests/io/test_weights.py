"""Weight files: the manifest, where files are looked for, and downloads from a real server that misbehaves."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dataengine.core import registry
from dataengine.core.component import Component
from dataengine.core.errors import WeightsError
from dataengine.io import weights
from dataengine.io.http_policy import HttpPolicy

CONTENT = bytes(range(256)) * 4096 + b"the end"
"""A megabyte: more than one chunk and than the buffers between client and server."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; the other attributes say how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = True
        self.cuts: list[int] = []
        """for each answer in turn, after how many bytes the connection is cut"""
        self.statuses: list[int] = []
        """for each answer in turn, an error to give"""
        self.asked: list[tuple[str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.asked.append((wanted, condition))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        body, start = server.content, 0
        if wanted and server.ranges and condition == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("DATAENGINE_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "POLICY", HttpPolicy(rate=None, timeout=30.0, pause=0.01))
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


Listing = Callable[..., None]


@pytest.fixture
def listing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listing:
    """Writes a manifest of one file, found in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(**more: Any) -> None:
        (tmp_path / "manifests").mkdir(exist_ok=True)
        table = {"name": "file.bin", "url": server.url, "licence": "MIT", **more}
        lines = "\n".join(f"{k} = {v!r}" for k, v in table.items())
        (tmp_path / "manifests" / "weights.toml").write_text(f"[[file]]\n{lines}\n")

    write()
    return write


def leftovers(tmp_path: Path) -> set[str]:
    return {p.name for p in (tmp_path / "weights").iterdir()} - {".file.bin.lock"}


def test_a_download_is_verified_pinned_and_found(server: Server, listing: Listing, tmp_path: Path) -> None:
    listing(sha256=SHA256, bytes=len(CONTENT))
    told: list[tuple[int, int | None]] = []
    path = weights.download("file.bin", lambda done, total: told.append((done, total)))
    assert path == tmp_path / "weights" / "file.bin" == weights.locate("file.bin")
    assert path.read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"file.bin", "file.bin.sha256"}
    assert told[0] == (0, len(CONTENT)) and told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert weights.hashes("file.bin") == {"file.bin": SHA256}
    weights.download("file.bin")
    assert len(server.asked) == 1


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, listing: Listing) -> None:
    listing(sha256=SHA256[:8])
    server.cuts = [300_000, 0, 200_000]
    assert weights.download("file.bin").read_bytes() == CONTENT
    assert server.asked[0] == (None, None)
    starts = [int(str(wanted)[6:-1]) for wanted, _ in server.asked[1:]]
    assert starts == [300_000, 300_000, 500_000]
    assert {condition for _, condition in server.asked[1:]} == {'"one"'}


def test_another_process_goes_on(server: Server, listing: Listing, tmp_path: Path) -> None:
    listing(sha256=SHA256)
    code = (
        "import os\nfrom dataengine.io import weights\n"
        "weights.download('file.bin', lambda done, total: os._exit(9) if done > 300_000 else None)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert killed.returncode == 9
    assert ".file.bin.part" in leftovers(tmp_path)
    with pytest.raises(WeightsError, match="are not in"):
        weights.locate("file.bin")
    assert weights.download("file.bin").read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"file.bin", "file.bin.sha256"}


@pytest.mark.parametrize("how", ["no ranges", "no validator", "weak validator"])
def test_without_ranges_it_starts_over(server: Server, listing: Listing, how: str) -> None:
    listing(sha256=SHA256)
    server.ranges = how != "no ranges"
    server.etag = {"no ranges": '"one"', "no validator": None, "weak validator": 'W/"one"'}[how]
    server.cuts = [300_000]
    assert weights.download("file.bin").read_bytes() == CONTENT
    assert len(server.asked) == 2
    assert (server.asked[1][0] is None) == (how != "no ranges")


def test_a_file_that_changed_meanwhile_is_taken_whole(server: Server, listing: Listing) -> None:
    del listing
    server.cuts = [300_000]
    told: list[int] = []

    def change(done: int, total: int | None) -> None:
        told.append(done)
        if done >= 300_000 and server.etag == '"one"':
            server.content, server.etag = CONTENT[::-1], '"two"'

    assert weights.download("file.bin", change).read_bytes() == CONTENT[::-1]
    assert told.count(0) == 2


def test_a_part_that_is_whole_already(server: Server, listing: Listing, tmp_path: Path) -> None:
    listing(sha256=SHA256)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / ".file.bin.part").write_bytes(CONTENT)
    (tmp_path / "weights" / ".file.bin.part.json").write_text(f'{{"url": "{server.url}", "etag": "\\"one\\""}}')
    assert weights.download("file.bin").read_bytes() == CONTENT
    assert server.asked == [(f"bytes={len(CONTENT)}-", '"one"')]


def test_a_part_of_something_else_is_not_used(server: Server, listing: Listing, tmp_path: Path) -> None:
    """The part's beginning was damaged: the whole does not fit its hash, and is fetched once more in one piece."""
    listing(sha256=SHA256)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / ".file.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "weights" / ".file.bin.part.json").write_text(f'{{"url": "{server.url}", "etag": "\\"one\\""}}')
    assert weights.download("file.bin").read_bytes() == CONTENT
    assert [wanted for wanted, _ in server.asked] == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("promise", "says"),
    [
        ({"sha256": "0" * 64}, "has sha256"),
        ({"sha256": "deadbeef"}, "promised deadbeef"),
        ({"bytes": 5}, "bytes, promised 5"),
    ],
)
def test_the_wrong_file_is_never_used(
    server: Server, listing: Listing, tmp_path: Path, promise: dict[str, Any], says: str
) -> None:
    listing(**promise)
    with pytest.raises(WeightsError, match=says) as told:
        weights.download("file.bin")
    assert "not used and removed" in str(told.value) and "\n" not in str(told.value)
    assert leftovers(tmp_path) == set()
    assert len(server.asked) == 1


def test_a_server_that_recovers(server: Server, listing: Listing) -> None:
    listing(sha256=SHA256)
    server.statuses = [503, 500, 429]
    assert weights.download("file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("statuses", "says", "tries"), [([404], "answers 404", 1), ([503] * 99, "answers 503", weights.POLICY.retries + 1)]
)
def test_a_server_that_does_not(server: Server, listing: Listing, statuses: list[int], says: str, tries: int) -> None:
    del listing
    server.statuses = statuses
    with pytest.raises(WeightsError, match=says):
        weights.download("file.bin")
    assert len(server.asked) == tries


def test_nobody_answers(server: Server, listing: Listing) -> None:
    del listing
    server.server_close()
    with pytest.raises(WeightsError, match="put the file into"):
        weights.download("file.bin")


def test_a_folder_that_cannot_be_written(
    server: Server, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del listing
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path / "a file" / "inside"))
    with pytest.raises(WeightsError, match="set DATAENGINE_WEIGHTS to another folder"):
        weights.download("file.bin")
    assert server.asked == []


def test_many_processes_ask_at_once(server: Server, listing: Listing, tmp_path: Path) -> None:
    listing(sha256=SHA256)
    code = "from dataengine.io import weights; print(weights.digest(weights.download('file.bin')))"
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert {p.communicate(timeout=240)[0].strip() for p in running} == {SHA256}
    assert len(server.asked) == 1


def test_offline(server: Server, listing: Listing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listing(sha256=SHA256)
    monkeypatch.setenv("DATAENGINE_OFFLINE", "1")
    with pytest.raises(WeightsError, match="DATAENGINE_OFFLINE"):
        weights.download("file.bin")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "file.bin").write_bytes(CONTENT)
    assert weights.download("file.bin").read_bytes() == CONTENT
    assert server.asked == []


def archive(*names: str) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in names:
            opened.writestr(name, CONTENT)
    return whole.getvalue()


def test_a_member_of_an_archive(server: Server, listing: Listing, tmp_path: Path) -> None:
    listing(member="end2end.onnx", sha256=SHA256, bytes=len(CONTENT))
    server.content = archive("20230504/detail.json", "../../20230504/end2end.onnx")
    assert weights.download("file.bin").read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"file.bin", "file.bin.sha256"}
    assert not (tmp_path.parent / "20230504").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive("other.onnx"), "holds 0 files called 'end2end.onnx'"),
        (archive("a/end2end.onnx", "b/end2end.onnx"), "holds 2 files"),
        (b"<html>not a zip", "no readable zip"),
        (archive("end2end.onnx")[:-30], "no readable zip"),
        (archive("end2end.onnx")[:100] + b"\0" * 500 + archive("end2end.onnx")[600:], "no readable zip"),
    ],
)
def test_archives_that_cannot_be_used(
    server: Server, listing: Listing, tmp_path: Path, content: bytes, says: str
) -> None:
    listing(member="end2end.onnx")
    server.content = content
    with pytest.raises(WeightsError, match=says):
        weights.download("file.bin")
    assert leftovers(tmp_path) == set()


def test_without_a_published_hash_the_first_download_is_pinned(
    server: Server, listing: Listing, tmp_path: Path
) -> None:
    del listing
    path = weights.download("file.bin")
    assert (tmp_path / "weights" / "file.bin.sha256").read_text().strip() == SHA256
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match=f"promised {SHA256[:16]}"):
        weights.locate("file.bin")
    with pytest.raises(WeightsError, match="remove that file"):
        weights.download("file.bin")
    assert not weights.present("file.bin")
    path.unlink()
    weights.pin_of(path).unlink()
    server.content = CONTENT[::-1]
    assert weights.digest(weights.download("file.bin")) != SHA256


def test_a_file_put_there_by_hand_is_checked(server: Server, listing: Listing, tmp_path: Path) -> None:
    listing(sha256=SHA256[:8])
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "file.bin").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="have sha256"):
        weights.locate("file.bin")
    (tmp_path / "weights" / "file.bin").write_bytes(CONTENT)
    assert weights.locate("file.bin").read_bytes() == CONTENT
    assert server.asked == []


def test_paths_and_names(listing: Listing, tmp_path: Path) -> None:
    del listing
    (tmp_path / "mine.onnx").write_bytes(b"1")
    (tmp_path / "file.bin").write_bytes(b"2")
    assert weights.locate("mine.onnx") == Path("mine.onnx")
    assert weights.locate(tmp_path / "mine.onnx") == tmp_path / "mine.onnx"
    assert weights.locate("./file.bin").read_bytes() == b"2"
    assert weights.names_of("mine.onnx", "file.bin") == ["file.bin"]
    assert weights.hashes("mine.onnx") == {"mine.onnx": hashlib.sha256(b"1").hexdigest()}
    with pytest.raises(WeightsError, match=r"dataengine weights file\.bin") as told:
        weights.locate("file.bin")
    assert "licence MIT" in str(told.value) and "http://" in str(told.value)
    with pytest.raises(WeightsError, match=r"did you mean 'file\.bin'"):
        weights.locate("fil.bin")


def test_the_digest_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.utime(path, ns=(1, 1))
    assert weights.digest(path) == hashlib.sha256(b"1").hexdigest()
    path.write_bytes(b"2")
    os.utime(path, ns=(2, 2))
    assert weights.digest(path) == hashlib.sha256(b"2").hexdigest()


def test_pins_of_a_build(listing: Listing) -> None:
    del listing
    lock = {"onnx": {"file.bin": "a" * 64, "mine.onnx": "b" * 64}, "gone": {"file.bin": "c" * 64}}
    weights.check_pins(lock, {"onnx": {"file.bin": "a" * 64, "mine.onnx": "d" * 64}, "new": {"file.bin": "e" * 64}})
    weights.check_pins({}, {"onnx": {"file.bin": "a" * 64}})
    with pytest.raises(WeightsError, match=r"file\.bin of onnx .* began with a{16}"):
        weights.check_pins(lock, {"onnx": {"file.bin": "f" * 64}})


def test_what_components_miss(listing: Listing) -> None:
    del listing

    class Needy(Component):
        def needs(self) -> list[str]:
            return ["file.bin"]

    assert weights.missing([Needy(), Component(), Needy()]) == ["file.bin"]
    weights.download("file.bin")
    assert weights.missing([Needy()]) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[file]]\nname = 'a'\nurl = 'b'", "licence is missing"),
        ("[[file]]\nname = 'a'\nurl = 'b'\nlicence = 'c'\nsha = 'd'", "sha is missing or unknown"),
        ("[[file]]\nname = '../a'\nurl = 'b'\nlicence = 'c'", "plain relative path"),
        ("[[file]]\nname = 'a'\nurl = 'b'\nlicence = 'c'\n" * 2, "given once"),
        ("[[file", "cannot be read"),
    ],
)
def test_damaged_manifests(listing: Listing, tmp_path: Path, text: str, says: str) -> None:
    del listing
    (tmp_path / "manifests" / "weights.toml").write_text(text)
    with pytest.raises(WeightsError, match=says):
        weights.manifest()


def test_the_manifest_we_ship() -> None:
    known = weights.manifest()
    assert len(known) >= 50
    components = {
        name for kind in ("experts", "detectors", "face_detectors", "features") for name in registry.names(kind)
    } | {"minilm"}
    for entry in known.values():
        assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}|", entry.sha256), entry.name
        assert entry.used_by and entry.page and entry.licence, entry.name
        if entry.places:
            assert [place.kind for place in entry.places] == ["url", "url", "npm", "path"], entry.name
            assert len(entry.sha256) == 64 and entry.bytes and entry.convert, entry.name
            assert set(entry.used_by) <= components, entry.name
            continue
        assert entry.url.startswith("https://"), entry.name
        assert bool(entry.member) == entry.url.endswith(".zip"), entry.name
        assert entry.member or entry.url.rsplit(".", 1)[-1] == entry.name.rsplit(".", 1)[-1], entry.name
        assert set(entry.used_by) <= components, entry.name
        if "yolo11" in entry.name:
            assert entry.licence == "AGPL-3.0"
    urls = [entry.url for entry in known.values() if entry.url]
    assert len(set(urls)) == len(urls)
