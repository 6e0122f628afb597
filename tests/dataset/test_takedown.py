"""Takedown: readers at once, no later build brings clips back, shards and intermediates without them, a record that
holds."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import dataengine
from dataengine.builder import rewrite_and_clean
from dataengine.core.errors import DatasetError
from dataengine.dataset import takedown as acts
from dataengine.dataset import takedown_records
from dataengine.dataset.index import read_records
from dataengine.dataset.placing import changing, refuse_link
from dataengine.dataset.takedown import takedown
from dataengine.dataset.verify import verify
from dataengine.inspect.build import job_of
from dataengine.inspect.explain import explain, to_text
from tests.support import tiny_dataset
from tests.support.commands import dataengine as command
from tests.support.killed import at_every_change
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


def test_a_page_that_shows_them_goes(out: Path) -> None:
    first, second = dataengine.open(out).clips.collect()["clip_id"][:2]
    page = out / "dataset" / "report.html"
    page.write_text(f"<p>{second}</p>", encoding="utf-8")
    assert takedown(out, [first], "asked")["report_removed"] is False and page.exists()
    done = command("takedown", str(out), "--clip-id", second, "--reason", "asked")
    assert "report   removed" in done.stdout and not page.exists()
    assert takedown(out, [second], "asked again")["report_removed"] is False


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
    for folder, said in (("dataset/tombstones", "tombstones"), ("takedowns", "takedowns")):
        whole, path = tombstone_bytes(out), out / folder / "part-00000.parquet"
        table = pq.read_table(path)
        changed = {**json.loads(table.schema.metadata[b"record"]), "by": "somebody else"}
        pq.write_table(table.replace_schema_metadata({"record": json.dumps(changed)}), path)
        assert {f"{said}/part-00001.parquet", "tombstones/part-00000.parquet"} == {p.path for p in verify(out)}
        path.write_bytes(whole[0])
    assert verify(out) == []


def tombstone_bytes(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((out / "dataset" / "tombstones").iterdir())]


def test_a_removed_dataset_takes_no_record_along(out: Path, corpus: Path) -> None:
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]
    takedown(out, [clip_id], "asked")
    kept = tombstone_bytes(out)
    shutil.rmtree(out / "dataset")
    build_sample(corpus, out)
    assert clip_id not in set(dataengine.open(out).clips.collect()["clip_id"])
    assert tombstone_bytes(out) == kept and verify(out) == []


def test_a_build_without_a_dataset_knows_its_clips_by_its_plan(out: Path) -> None:
    """The dataset was removed, or is not made yet."""
    rows = dataengine.open(out).clips.select("clip_id", "video_id").collect().rows()
    (clip_id, _), (_, video_id) = rows[0], next(row for row in rows if row[1] != rows[0][1])
    gone = {clip_id, *(clip for clip, video in rows if video == video_id)}
    shutil.rmtree(out / "dataset")
    record = takedown(out, [clip_id, video_id], "asked")
    assert gone <= set(record["clip_ids"]) and record["fingerprint"] is None
    said = command("takedown", str(out), "--clip-id", "nobody", "--reason", "asked").stderr
    assert "'nobody' is neither a clip id nor a video id of this build" in said and "plan.parquet holds them" in said
    done = command("takedown", str(out), "--clip-id", clip_id, "--reason", "asked again", "--rewrite")
    assert done.returncode == 0 and "there is no dataset: the next build leaves them out" in done.stdout, done.stderr
    for tar in out.rglob("*.tar"):
        assert not any(clip.encode() in tar.read_bytes() for clip in gone), tar
    assert len(takedown_records.files(out)) == 2


@pytest.mark.slow
def test_a_build_honours_what_was_taken_down_while_there_was_no_dataset(out: Path, corpus: Path) -> None:
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]
    shutil.rmtree(out / "dataset")
    takedown(out, [clip_id], "asked")
    build_sample(corpus, out)
    assert clip_id not in set(dataengine.open(out).clips.collect()["clip_id"]) and verify(out) == []
    assert [record["clip_ids"] for record in read_records(out / "dataset")] == [[clip_id]]


def test_what_was_never_built_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="dataset incomplete"):
        takedown(tmp_path, [CLIP], "asked")


def test_records_of_earlier_versions_are_taken_over_as_they_are(out: Path, corpus: Path) -> None:
    """Those lie in the dataset alone. Here one came back with a copy that knows nothing of a record made meanwhile."""
    first, second, third = dataengine.open(out).clips.collect()["clip_id"][:3]
    for clip_id in (first, second):
        takedown(out, [clip_id], f"asked for {clip_id}")
    shutil.rmtree(out / "takedowns")
    old = tombstone_bytes(out)
    takedown(out, [third], "asked later")
    assert tombstone_bytes(out)[:2] == old and verify(out) == []
    shutil.rmtree(out / "takedowns")
    (out / "dataset" / "tombstones" / "part-00000.parquet").unlink()  # as if only others had been made here
    (out / "dataset" / "tombstones" / "part-00001.parquet").unlink()
    shutil.move(out / "dataset" / "tombstones" / "part-00002.parquet", out / "dataset/tombstones/part-00000.parquet")
    takedown(out, [first], "asked again")
    build_sample(corpus, out)
    assert [r["clip_ids"] for r in read_records(out / "dataset")] == [[third], [first]] and verify(out) == []
    assert not {first, third} & set(dataengine.open(out).clips.collect()["clip_id"])


def test_a_copy_without_its_build_keeps_the_records_itself(out: Path, corpus: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(out / "dataset", tmp_path / "alone"))
    first, second = dataengine.open(alone).clips.collect()["clip_id"][:2]
    takedown(alone, [first], "asked of the copy")
    assert not (tmp_path / "takedowns").exists() and verify(alone) == []
    assert first not in set(dataengine.open(alone).clips.collect()["clip_id"])
    takedown(out, [second], "asked of the build")
    shutil.rmtree(out / "dataset")
    alone.rename(out / "dataset")
    build_sample(corpus, out)
    assert [r["clip_ids"] for r in read_records(out / "dataset")] == [[second], [first]] and verify(out) == []
    assert not {first, second} & set(dataengine.open(out).clips.collect()["clip_id"])


def test_a_copy_cannot_be_rewritten_and_says_where_to(tmp_path: Path) -> None:
    tiny_dataset.build(tmp_path)
    alone = (tmp_path / "dataset").rename(tmp_path / "alone")
    with pytest.raises(DatasetError, match=r"is recorded.*without its build.*give the --out of the build"):
        rewrite_and_clean(alone)
    with pytest.raises(DatasetError, match="is a dataset without its build, for verify, audit and takedown"):
        job_of(alone)
    assert "take them down in the build, too" in acts.to_text(takedown(alone, [CLIP], "asked"), False)


def test_a_stopped_switch_is_said_to_readers_and_finished_by_a_takedown(tmp_path: Path) -> None:
    tiny_dataset.build(tmp_path)
    (tmp_path / "dataset").rename(tmp_path / "dataset.old")
    for where in (tmp_path, tmp_path / "dataset"):
        with pytest.raises(DatasetError, match="a build was stopped while it put the dataset in place; run"):
            dataengine.open(where)
    takedown(tmp_path, [CLIP], "asked")
    assert CLIP not in set(dataengine.open(tmp_path).clips.collect()["clip_id"]) and verify(tmp_path) == []


def test_a_full_disk_is_said_and_changes_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        done = command("takedown", str(out), "--clip-id", clip_id, "--reason", "asked")
    assert done.returncode == 1 and "is not recorded: No space left on device" in done.stderr
    assert not list((out / "takedowns").glob("part-*")) and verify(out) == []


def test_a_dataset_that_is_a_link_is_not_replaced(out: Path, corpus: Path, tmp_path: Path) -> None:
    (out / "dataset").rename(tmp_path / "elsewhere")
    (out / "dataset").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="is a link, and a build puts a new folder in its place"):
        build_sample(corpus, out)
    assert (out / "dataset").is_symlink() and verify(out) == []


def test_a_file_in_the_place_of_the_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset").write_bytes(b"")
    with pytest.raises(DatasetError, match="dataset is not a folder: remove it, or give another --out"):
        refuse_link(tmp_path)


def test_a_takedown_killed_at_any_step_is_a_record_or_nothing(tmp_path: Path) -> None:
    """A record that was written holds, also where the dataset does not say so yet."""
    tiny_dataset.build(tmp_path / "whole")
    (tmp_path / "whole" / "work").mkdir()
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    driver = spawn.Process(target=_take_down_killed, args=(tmp_path, results))
    driver.start()
    found = list(iter(results.get, None))
    driver.join(60)
    assert driver.exitcode == 0 and sum(killed for _, killed in found) >= 4
    recorded = []
    for n, killed in found:
        out = tmp_path / str(n) / "out"
        recorded.append(bool(list((out / "takedowns").glob("part-*.parquet"))))
        hidden = CLIP not in set(dataengine.open(out).clips.collect()["clip_id"])
        assert recorded[-1] or not hidden, "no clip is hidden before its record is on the disk"
        with changing(out, "test"):
            pass
        assert verify(out) == []
        assert recorded[-1] == (CLIP not in set(dataengine.open(out).clips.collect()["clip_id"]))
        assert recorded[-1] or killed
    assert recorded == sorted(recorded)


CLIP = "random-video000-0-280"


def _take_down_killed(folder: Path, results: Any) -> None:
    """In a process of its own that has started no threads yet: takedowns, killed at every change in turn."""

    def copy(n: int) -> None:
        shutil.copytree(folder / "whole", folder / str(n) / "out")

    def work(n: int) -> None:
        takedown(folder / str(n) / "out", [CLIP], "asked")

    copy(0)
    for n, killed in at_every_change(work, lambda n: f"{n}/out/"):
        results.put((n, killed))
        if killed:
            copy(n + 1)
    results.put(None)


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


@pytest.mark.slow
def test_after_a_build_of_a_few_clips_a_takedown_costs_the_units_it_touches_alone(out: Path, corpus: Path) -> None:
    """The work of all others, which is not in the dataset then, stays; nothing of the clip does."""
    build_sample(corpus, out, limit=6)
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]
    done = command("takedown", str(out), "--clip-id", clip_id, "--reason", "asked", "--rewrite")
    assert done.returncode == 0, done.stderr
    for tar in out.rglob("*.tar"):
        assert clip_id.encode() not in tar.read_bytes(), tar
    states = {state.name: state for state in build_sample(corpus, out).states}
    for name in ("probe", "pose", "measure"):
        assert states[name].done == states[name].units - 1, name
    assert clip_id not in set(dataengine.open(out).clips.collect()["clip_id"]) and verify(out) == []


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
