"""Takedown: readers at once, no later build brings clips back, shards and intermediates without them, a record that
holds."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

import dataengine
from dataengine.core.errors import DatasetError
from dataengine.dataset.index import read_records
from dataengine.dataset.takedown import takedown
from dataengine.dataset.verify import verify
from dataengine.inspect.explain import explain, to_text
from tests.support.commands import dataengine as command
from tests.support.shared import build_sample, copied


@pytest.fixture
def out(sample_build: Path, tmp_path: Path) -> Path:
    return copied(sample_build, tmp_path)


def test_readers_leave_clips_out_at_once(out: Path) -> None:
    before = dataengine.open(out)
    clip_id = before.clips.collect()["clip_id"][0]
    record = takedown(out, [clip_id], "the person asked for it", by="rights officer")
    ds = dataengine.open(out)
    for name in ("clips", "tracks", "joints", "signatures"):
        assert clip_id not in ds.table(name).collect()["clip_id"]
    assert clip_id not in {s["json"]["clip_id"] for s in ds.samples(entries=("json",))}
    with pytest.raises(DatasetError, match=clip_id):
        ds.sample(clip_id)
    assert verify(out) == []
    (kept,) = read_records(out / "dataset")
    assert (
        kept["by"] == "rights officer" and kept["reason"] == "the person asked for it" and kept["clip_ids"] == [clip_id]
    )
    assert kept["fingerprint"] == before.manifest["fingerprint"] and record["time"].endswith("+00:00")


def test_explain_and_view_say_that_a_clip_was_taken_down(out: Path) -> None:
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]
    takedown(out, [clip_id], "consent withdrawn")
    story = explain(out, clip_id)
    assert story["decision"]["kept"] is False and story["passes"][-1]["reason"] == "takedown"
    assert "consent withdrawn" in to_text(story) and "kept as" not in to_text(story)
    seen = command("view", str(out), clip_id, "--to", str(out / "clip.png"))
    assert seen.returncode == 1 and "was taken down: consent withdrawn" in seen.stderr
    assert not (out / "clip.png").exists()


def test_a_record_cannot_be_changed_unseen(out: Path) -> None:
    first, second = dataengine.open(out).clips.collect()["clip_id"][:2]
    takedown(out, [first], "one")
    takedown(out, [second], "two")
    assert verify(out) == []
    path = out / "dataset" / "tombstones" / "part-00000.parquet"
    table = pq.read_table(path)
    changed = {**json.loads(table.schema.metadata[b"record"]), "by": "somebody else"}
    pq.write_table(table.replace_schema_metadata({"record": json.dumps(changed)}), path)
    assert [p.path for p in verify(out)] == ["tombstones/part-00001.parquet"]


def test_rewriting_leaves_no_trace_of_the_poses(out: Path) -> None:
    ds = dataengine.open(out)
    video_id = ds.clips.collect()["video_id"][0]
    gone = set(ds.clips.filter(pl.col("video_id") == video_id).collect()["clip_id"])
    done = command("takedown", str(out), "--video-id", video_id, "--reason", "consent withdrawn", "--rewrite", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rewritten"] is True
    after = dataengine.open(out)
    rejects = dict(after.rejects.select("clip_id", "reason").collect().rows())
    assert {rejects[clip] for clip in gone} == {"takedown"}
    assert verify(out) == []
    for tar in out.rglob("*.tar"):
        assert not any(clip.encode() in tar.read_bytes() for clip in gone), tar
    for table in (out / "dataset" / "index").rglob("*.parquet"):
        if "rejects" not in table.parts:
            assert not gone & set(pq.read_table(table)["clip_id"].to_pylist())


def test_building_again_does_not_bring_them_back(out: Path, corpus: Path) -> None:
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]
    takedown(out, [clip_id], "asked")
    build_sample(corpus, out)
    ds = dataengine.open(out)
    assert ds.rejects.filter(pl.col("clip_id") == clip_id).collect()["reason"].to_list() == ["takedown"]
    assert len(read_records(out / "dataset")) == 1 and verify(out) == []


def test_a_list_of_ids(out: Path, tmp_path: Path) -> None:
    ids = dataengine.open(out).clips.collect()["clip_id"][:2].to_list()
    (tmp_path / "ids.txt").write_text("# withdrawn in May\n" + "\n".join(ids) + "\n\n")
    done = command("takedown", str(out), "--list", str(tmp_path / "ids.txt"), "--reason", "asked")
    assert done.returncode == 0 and "2 clips taken down" in done.stdout
    assert not set(ids) & set(dataengine.open(out).clips.collect()["clip_id"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clip-id", "nobody", "--reason", "x"], "'nobody' is neither a clip id nor a video id"),
        (["--reason", "x"], "names nothing"),
        (["--list", "absent.txt", "--reason", "x"], "absent.txt: not a list of ids"),
        (["--clip-id", "nobody", "--reason", " "], "wants a reason"),
    ],
)
def test_mistakes_change_nothing(out: Path, arguments: list[str], words: str) -> None:
    done = command("takedown", str(out), *arguments)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert read_records(out / "dataset") == []
