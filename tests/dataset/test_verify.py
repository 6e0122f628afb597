"""verify: a sound dataset has no problems, and every planted damage is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from dataengine.core.errors import DatasetError
from dataengine.core.progress import ConsoleProgress
from dataengine.dataset import index
from dataengine.dataset.verify import Problem, verify
from dataengine.io.shards import ShardWriter, decode, iterate
from tests.support.tiny_dataset import EXPERTS, build

SHARD = "shards/pose/train-000000.tar"
FIRST = "random-video000-0-"
Rows = list[dict[str, Any]]


def seal(root: Path, **changes: int) -> None:
    """Write the manifest for what lies there, so that only the contents can be found wrong."""
    manifest = index.read_manifest(root)
    counts = {name: pq.read_table(root / "index" / name).num_rows for name in index.TABLES}
    counts["planned"] = counts["clips"] + counts["rejects"]
    index.write_manifest(root, index.build_manifest(root, counts | changes, manifest["fingerprint"]))


def edit(table: str, change: Callable[[Rows], Any]) -> Callable[[Path], None]:
    """A damage that changes the rows of a table; a returned list replaces them."""

    def damage(root: Path) -> None:
        folder = root / "index" / table
        rows = pl.read_parquet(folder / "*.parquet").to_dicts()
        given = change(rows)
        schema = index.tracks_schema(EXPERTS) if table == "tracks" else index.TABLES[table]
        index.write_table(folder, given if isinstance(given, list) else rows, schema)
        seal(root)

    return damage


def rewrite(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A damage to the first sample of a shard, with the index telling of it correctly."""

    def damage(root: Path) -> None:
        places = {}
        samples = [
            (key, {f"{n}.npy" if isinstance(v, np.ndarray) else n: v for n, v in decode(e).items()})
            for key, e in iterate(root / SHARD)
        ]
        samples[0] = (
            samples[0][0],
            {n: v.copy() if isinstance(v, np.ndarray) else v for n, v in samples[0][1].items()},
        )
        change(samples[0][1])
        with ShardWriter(root / SHARD) as writer:
            for key, entries in samples:
                places[key] = writer.write(key, entries)

        def point(rows: Rows) -> None:
            for row in rows:
                if place := places.get(row["clip_id"]):
                    row |= {"offset": place.offset, "size": place.size, "blake3": place.blake3}
                    row["entries"] = [entry._asdict() for entry in place.entries]

        edit("clips", point)(root)

    return damage


def put(path: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: ((root / path).parent.mkdir(exist_ok=True), (root / path).write_bytes(data))


def flip(path: str, position: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = bytearray((root / path).read_bytes())
        data[position] ^= 1
        (root / path).write_bytes(data)

    return damage


def cut(path: str, size: int) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:size])


def then_seal(damage: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda root: (damage(root), seal(root))[1]


def update(table: str, **values: Any) -> Callable[[Path], None]:
    return edit(table, lambda rows: rows[0].update(values))


def set_first(entry: str, value: Any, where: Any = (0, 0, 0)) -> Callable[[Path], None]:
    return rewrite(lambda entries: entries[entry].__setitem__(where, value))


def unsorted(root: Path) -> None:
    path = root / "index/rejects/part-00000.parquet"
    pq.write_table(pq.read_table(path).take([2, 0, 1]), path)
    seal(root)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "flipped byte in a sample": (flip(SHARD, 3000), SHARD, "damaged: blake3"),
    "flipped byte names the clip": (flip(SHARD, 3000), SHARD, f"{FIRST}280 does not have the blake3"),
    "flipped byte in the index": (
        flip("index/joints/part-00000.parquet", 100),
        "index/joints/part-00000.parquet",
        "damaged: blake3",
    ),
    "shard cut short": (cut(SHARD, 6000), SHARD, "has 6000 bytes, the manifest says"),
    "torn shard, sealed": (then_seal(cut(SHARD, 6000)), SHARD, "torn: member"),
    "shard without its end, sealed": (
        then_seal(lambda r: cut(SHARD, (r / SHARD).stat().st_size - 1024)(r)),
        SHARD,
        "does not end as one does",
    ),
    "empty shard, sealed": (then_seal(cut(SHARD, 0)), SHARD, "cannot be read"),
    "missing shard": (lambda root: (root / SHARD).unlink(), SHARD, "missing: the manifest names it"),
    "missing shard, sealed": (
        then_seal(lambda root: (root / SHARD).unlink()),
        SHARD,
        "not in the manifest, but the index places 3 clips",
    ),
    "stray file": (put("shards/pose/other.txt", b"x"), "shards/pose/other.txt", "stray"),
    "stray shard, sealed": (
        then_seal(lambda root: write_shard(root, "pose", ["a"])),
        "shards/pose/val-000009.tar",
        "a has no row in index/clips",
    ),
    "missing index part": (
        lambda root: (root / "index/tracks/part-00000.parquet").unlink(),
        "index/tracks/part-00000.parquet",
        "missing",
    ),
    "missing table, sealed": (
        lambda root: (seal(root), (root / "index/joints/part-00000.parquet").unlink(), forget(root, "index/joints")),
        "index/joints",
        "missing: every dataset has this table",
    ),
    "garbage table, sealed": (
        lambda root: (put("index/joints/part-00000.parquet", b"PAR1")(root), reseal(root)),
        "index/joints",
        "cannot be read",
    ),
    "foreign columns": (
        lambda root: (
            pq.write_table(
                pq.read_table(root / "index/joints").drop_columns("visible"), root / "index/joints/part-00000.parquet"
            ),
            seal(root),
        ),
        "index/joints/part-00000.parquet",
        "lacks [('visible', 'float')]",
    ),
    "missing index row": (edit("clips", lambda rows: rows[1:]), SHARD, f"{FIRST}280 has no row in index/clips"),
    "row of a clip that is not there": (
        edit("clips", lambda rows: [*rows, rows[0] | {"clip_id": "random-ghost-0-1"}]),
        SHARD,
        "random-ghost-0-1 is not in the shard",
    ),
    "row twice": (edit("clips", lambda rows: [*rows, rows[0]]), "index/clips", f"{FIRST}280 stands twice"),
    "wrong offset": (
        update("clips", offset=512),
        SHARD,
        "does not have the blake3 that index/clips says, at its offset and size",
    ),
    "wrong entries": (
        edit("clips", lambda rows: rows[0]["entries"].pop()),
        SHARD,
        "entries other than index/clips says",
    ),
    "another hash": (update("clips", blake3="0" * 64), SHARD, "does not have the blake3"),
    "clip rejected, too": (update("rejects", clip_id=f"{FIRST}280"), "index/rejects", f"{FIRST}280 is in clips, too"),
    "unknown reason": (update("rejects", reason="mood"), "index/rejects", "reason outside the closed list"),
    "unknown split": (update("clips", split="dev"), "index/clips", "split other than train, val, test"),
    "label without id": (update("clips", label_id=None), "index/clips", "a label without an id"),
    "label with two ids": (update("clips", label_id=7), "index/clips", "label 'clap' goes with more than one label_id"),
    "id with two labels": (update("clips", label="fly"), "index/clips", "label_id 0 goes with more than one label"),
    "json says another label": (
        update("clips", label="jump", label_id=1),
        SHARD,
        "says another label, label_id in its json",
    ),
    "track of no clip": (update("tracks", clip_id="nobody"), "index/tracks", "nobody is no clip of the dataset"),
    "lost track": (edit("tracks", lambda rows: rows[1:]), "index/tracks", "other than num_people kept tracks"),
    "track twice": (edit("tracks", lambda rows: [*rows, rows[0] | {"kept": False}]), "index/tracks", "stands twice"),
    "joint of no track": (update("joints", track_id=99), "index/joints", "joints of a track that is not in tracks"),
    "track without joints": (edit("joints", lambda rows: rows[17:]), "index/joints", "a kept track without joints"),
    "wrong count": (lambda root: seal(root, tracks=999), "index/tracks", "the manifest counts 999"),
    "planned clips lost": (lambda root: seal(root, planned=99), "MANIFEST.json", "99 clips were planned, but 11"),
    "unsorted table": (unsorted, "index/rejects", "not sorted by clip_id"),
    "NaN joint with a score": (
        set_first("keypoints.npy", np.nan),
        SHARD,
        "joints that are NaN; a joint not seen has score 0",
    ),
    "half a joint": (set_first("keypoints.npy", np.nan, (0, 0, 0, 0)), SHARD, "half missing joints"),
    "infinite joint": (set_first("keypoints.npy", np.inf), SHARD, "infinite"),
    "zeros for unseen": (
        rewrite(
            lambda entries: (
                entries["keypoints.npy"].__setitem__((0, 0, 0), 0),
                entries["scores.npy"].__setitem__((0, 0, 0), 0),
            )
        ),
        SHARD,
        "joints at (0, 0) with score 0",
    ),
    "score above one": (set_first("scores.npy", 1.5, (0, 0, slice(None))), SHARD, "scores.npy leaves [0, 1]"),
    "NaN confidence": (set_first("confidence.npy", np.nan, (0, 0)), SHARD, "confidence.npy leaves [0, 1]"),
    "time stands still": (set_first("timestamps.npy", 9.0, 1), SHARD, "timestamps.npy does not rise"),
    "wrong dtype": (
        rewrite(lambda entries: entries.update({"scores.npy": entries["scores.npy"].astype(np.float32)})),
        SHARD,
        "must be float16",
    ),
    "wrong length": (
        rewrite(lambda entries: entries.update({"scores.npy": entries["scores.npy"][:, :-1]})),
        SHARD,
        "scores.npy is float16",
    ),
    "missing entry": (rewrite(lambda entries: entries.pop("confidence.npy")), SHARD, "lacks confidence.npy"),
    "fewer people": (
        rewrite(lambda e: e.update({n: e[n][:1] for n in e if n[:3] in ("key", "sco", "con")})),
        SHARD,
        "holds 1 people",
    ),
    "json without joints": (
        rewrite(lambda entries: entries["json"].pop("joints")),
        SHARD,
        "without joints or num_frames",
    ),
    "other tracks in the json": (
        rewrite(lambda entries: entries["json"].update(tracks=[7])),
        SHARD,
        "says tracks [7] in its json",
    ),
    "vector not of unit length": (
        rewrite(lambda entries: entries.update({"viclip_text.npy": np.ones(8, np.float16)})),
        SHARD,
        "viclip_text.npy is not of unit length",
    ),
    "gap in the tombstones": (
        put("tombstones/part-00003.parquet", b""),
        "tombstones/part-00003.parquet",
        "is not the next in number",
    ),
    "broken tombstones": (
        put("tombstones/part-00000.parquet", b"x"),
        "tombstones/part-00000.parquet",
        "cannot be read",
    ),
    "video shard in another order": (
        then_seal(
            lambda root: write_shard(root, "video", [key for key, _ in iterate(root / SHARD)][::-1], "train-000000.tar")
        ),
        "shards/video/train-000000.tar",
        "does not hold the samples of shards/pose/train-000000.tar in their order",
    ),
    "no manifest": (lambda root: (root / "MANIFEST.json").unlink(), "MANIFEST.json", "dataset incomplete"),
    "other format": (put("MANIFEST.json", b'{"format_version": 7}'), "MANIFEST.json", "format version 7"),
}


def write_shard(root: Path, kind: str, keys: list[str], name: str = "val-000009.tar") -> None:
    with ShardWriter(root / "shards" / kind / name) as writer:
        for key in keys:
            writer.write(key, {"mp4": b"video"})


def forget(root: Path, prefix: str) -> None:
    manifest = index.read_manifest(root)
    files = [file for file in manifest["files"] if not file["path"].startswith(prefix)]
    index.write_manifest(root, manifest | {"files": files})


def reseal(root: Path) -> None:
    """Like `seal`, without reading the tables."""
    manifest = index.read_manifest(root)
    index.write_manifest(root, index.build_manifest(root, manifest["counts"], manifest["fingerprint"]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


def test_a_sound_dataset_has_no_problems(root: Path) -> None:
    assert verify(root) == verify(root.parent) == []
    (root / "README.md").write_text("changes at any time")
    index.write_tombstones(root, [{"clip_id": "random-video001", "reason": "asked for"}])
    assert verify(root) == []


def test_progress_is_told_on_stderr(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(root, ConsoleProgress())
    out, err = capsys.readouterr()
    files = len(index.read_manifest(root)["files"])
    assert out == "" and f"files {files}/{files} files" in err and "shards  " in err and "left 0:00:00" in err


def test_an_empty_dataset_has_no_problems(tmp_path: Path) -> None:
    assert verify(build(tmp_path, clips=0, rejected=0)) == []


@pytest.mark.parametrize("name", DAMAGES)
def test_planted_damage_is_found_and_named(root: Path, name: str) -> None:
    damage, path, what = DAMAGES[name]
    damage(root)
    found = verify(root)
    assert any(problem.path.startswith(path) and what in problem.what for problem in found), found
    assert all("\n" not in problem.what for problem in found)
    assert len(found) <= 12


def test_one_damage_does_not_hide_another(root: Path) -> None:
    flip(SHARD, 3000)(root)
    flip("index/joints/part-00000.parquet", 100)(root)
    put("index/clips/extra.parquet", b"")(root)
    assert {problem.path for problem in verify(root)} == {
        SHARD,
        "index/joints/part-00000.parquet",
        "index/clips/extra.parquet",
    }


def test_every_byte_counts(root: Path) -> None:
    data = (root / SHARD).read_bytes()
    for position in range(0, len(data), 1499):
        (root / SHARD).write_bytes(data)
        flip(SHARD, position)(root)
        assert Problem in {type(problem) for problem in verify(root)}, position


def test_video_shards_with_the_same_order_are_sound(root: Path) -> None:
    for shard in (root / "shards/pose").iterdir():
        write_shard(root, "video", [key for key, _ in iterate(shard)], shard.name)
    seal(root)
    assert verify(root) == []


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        verify(tmp_path / "nowhere")


def test_problems_are_sorted_and_said_once(root: Path) -> None:
    for path in sorted((root / "shards/pose").iterdir()):
        path.unlink()
    found = verify(root)
    assert found == sorted(set(found))
    assert json.dumps([[problem.path, problem.what] for problem in found])
