"""The rendered corpus laid out as the public mirrors are, served from loopback."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.faulty_server import Server


def tarball(members: Iterable[tuple[str, bytes]], zipped: bool = True) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz" if zipped else "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def lay_out_kinetics(server: Server, folder: Path, parts: int) -> None:
    """As CVDF does: lists of archives with absolute urls, archives of classes; train in several, one not gzipped."""
    videos = sorted(path for path in folder.rglob("*.mp4"))
    rows = {name: (folder / "annotations" / f"{name}.csv").read_bytes() for name in ("train", "validate")}
    server.files["k/annotations/kinetics700.tar.gz"] = tarball(
        (f"kinetics700/{name}.csv", data) for name, data in rows.items()
    )
    split = {path: "val" if path.stem[:11].encode() in rows["validate"] else "train" for path in videos}
    for name, count in (("train", parts), ("val", 1)):
        lines = []
        for part in range(count):
            members = [
                (f"./{p.parent.name}/{p.name}", p.read_bytes())
                for p in [p for p in videos if split[p] == name][part::count]
            ]
            path = f"k/{name}/k700_{name}_{part + 1:03d}.tar.gz"
            server.files[path] = tarball(members, zipped=part != 1)
            lines.append(f"https://official.example/kinetics/{path[2:]}\n")
        server.files[f"k/{name}/k700_2020_{name}_path.txt"] = "".join(lines).encode()


def lay_out_cap(server: Server, folder: Path) -> str:
    """As Visym does: one archive with everything; its MD5."""
    members = [
        (f"cap_classification_clip/{p.relative_to(folder)}", p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]
    server.files["c/cap_classification_clip.tar.gz"] = tarball(members)
    return hashlib.md5(server.files["c/cap_classification_clip.tar.gz"]).hexdigest()


def mirror_list(path: Path, server: Server, md5: Mapping[str, str]) -> Path:
    path.write_text(f"""
[kinetics700]
base = "https://official.example/kinetics/"
licence = "test"
annotations = [{{ path = "annotations/kinetics700.tar.gz", url = "https://elsewhere.example/kinetics700.tar.gz" }}]
lists.train = "train/k700_2020_train_path.txt"
lists.val = "val/k700_2020_val_path.txt"
lists.test = "test/k700_2020_test_path.txt"

[cap]
base = "{server.base}c/"
licence = "test"
archives = [{{ path = "cap_classification_clip.tar.gz", md5 = "{md5["cap"]}" }}]

[evaluation_lists]
kinetics400_val = "{server.base}val.csv"
""")
    return path
