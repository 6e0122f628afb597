"""Kinetics: official lists and media trees, and what becomes of everything wrong in them."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from dataengine.core import registry
from dataengine.core.errors import SourceError
from dataengine.core.reasons import REASONS
from dataengine.core.types import Clip

A, B, C = "-aaaaaaaaaa", "b_bbbbbbb-b", "ccccccccccc"
HEADER = "label,youtube_id,time_start,time_end,split\n"


def clips(root: Path, name: str = "kinetics700") -> list[Clip]:
    found = list(registry.create("sources", name).discover(root))
    assert len({clip.clip_id for clip in found}) == len(found)
    assert all(clip.reason is None or (clip.reason in REASONS and clip.detail) for clip in found)
    return found


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_reads_rows_and_finds_media_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        f'{HEADER}clapping,{A},5,15,train\n"high kick",{B},0,10,train\nsquat,{C},1,11,train\n'
    )
    (tmp_path / "validate.csv").write_text(f"{HEADER}clapping,{A},30,40,validate\n")
    (tmp_path / "test.csv").write_text(f"youtube_id,time_start,time_end,split\n{C},7,17,test\n")
    touch(
        tmp_path,
        f"videos/clapping/{A}_000005_000015.mp4",
        f"deep/er/{B}_000000_000010.mkv",
        f"{A}_000030_000040.webm",
        f"{C}_7_17.avi",
    )
    found = {clip.clip_id: clip for clip in clips(tmp_path)}
    first = found[f"kinetics700-{A}-5-15"]
    assert (first.media, first.label, first.split, first.start, first.end) == (
        f"videos/clapping/{A}_000005_000015.mp4",
        "clapping",
        "train",
        5.0,
        15.0,
    )
    assert (
        first.url == f"https://www.youtube.com/watch?v={A}"
        and "CC BY 4.0" in (first.licence or "")
        and first.span_start is None
    )
    assert (
        found[f"kinetics700-{B}-0-10"].media == f"deep/er/{B}_000000_000010.mkv"
        and found[f"kinetics700-{B}-0-10"].label == "high kick"
    )
    assert found[f"kinetics700-{C}-1-11"].media == ""
    assert found[f"kinetics700-{A}-30-40"].split == "val"
    assert (found[f"kinetics700-{C}-7-17"].split, found[f"kinetics700-{C}-7-17"].label) == ("test", None)
    assert found[f"kinetics700-{C}-7-17"].media == f"{C}_7_17.avi"
    assert list(found) == [clip.clip_id for clip in clips(tmp_path)]


def test_the_trimmed_file_comes_before_the_whole_video(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"{HEADER}clapping,{A},5,15,train\nclapping,{A},50,60,train\n")
    touch(tmp_path, f"a/{A}.mp4", f"b/{A}_000005_000015.mp4")
    trimmed, whole = clips(tmp_path)
    assert (trimmed.media, trimmed.span_start, trimmed.span_end) == (f"b/{A}_000005_000015.mp4", None, None)
    assert (whole.media, whole.span_start, whole.span_end) == (f"a/{A}.mp4", 50.0, 60.0)


def test_replacements_come_before_the_broken_files(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"{HEADER}clapping,{A},5,15,train\n")
    touch(tmp_path, f"a/{A}_000005_000015.mp4", f"replacement/{A}_000005_000015.mp4")
    assert clips(tmp_path)[0].media.startswith("replacement/")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("clapping,#NAME?,5,15,train", "not a YouTube id"),
        ("clapping,../../etc/pa,5,15,train", "not a YouTube id"),
        (f"clapping,{A},five,15,train", "'five' is not a number"),
        (f"clapping,{A},nan,15,train", "not a number of seconds"),
        (f"clapping,{A},-5,15,train", "not a number of seconds"),
        (f"clapping,{A},15,5,train", "not after the start"),
        (f"clapping,{A},5,15,trian", "'trian' is none of"),
        (f"clapping,{A},5,15", "4 fields where the header has 5"),
        (f'"clapping,{A},5,15,train', "not a CSV line"),
        (f"cl\udcffapping,{A},5,15,train", "UTF-8"),
    ],
)
def test_a_bad_row_costs_itself_only(tmp_path: Path, line: str, says: str) -> None:
    text = f"{HEADER}squat,{B},0,10,train\n{line}\nsquat,{C},0,10,train\n"
    (tmp_path / "train.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    first, bad, last = clips(tmp_path)
    assert (first.video_id, last.video_id) == (B, C) and first.reason is None and last.reason is None
    assert bad.reason == "bad_row" and "train.csv line 3" in (bad.detail or "") and says in (bad.detail or "")
    assert bad.media == "" and str(tmp_path) not in (bad.detail or "")


def test_repeated_rows_collapse_and_contradictions_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{HEADER}squat,{A},0,10,train\nsquat,{B},0,10,train\n")
    (tmp_path / "b.csv").write_text(f"{HEADER}squat,{A},0,10,train\nclapping,{B},0,10,train\n")
    (tmp_path / "c.csv").write_text(f"youtube_id,time_start,time_end,split\n{A},0,10,train\n{B},0,10,test\n")
    found = clips(tmp_path)
    assert Counter(clip.reason for clip in found) == {None: 2, "duplicate_id": 2}
    assert [clip.label for clip in found if clip.reason is None] == ["squat", "squat"]
    assert all(clip.video_id == B for clip in found if clip.reason)


def test_official_json_alone_and_beside_its_csv(tmp_path: Path) -> None:
    entries = {
        A: {
            "annotations": {"label": "squat", "segment": [0.0, 10.0]},
            "duration": 10.0,
            "subset": "validate",
            "url": "u",
        },
        B: {"annotations": {"label": "squat"}, "duration": 10.0, "subset": "train", "url": "u"},
        C: {
            "annotations": {"label": "squat", "segment": [0.5, 10.25]},
            "duration": 10.0,
            "subset": "training",
            "url": "u",
        },
    }
    (tmp_path / "validate.json").write_text(json.dumps(entries))
    (tmp_path / "parents.json").write_text(json.dumps({"squat": ["gym"]}))
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": [{"id": 1}]}))
    first, bad, last = clips(tmp_path)
    assert (first.clip_id, first.label, first.split) == (f"kinetics700-{A}-0-10", "squat", "val")
    assert bad.reason == "bad_row" and "entry 2" in (bad.detail or "")
    assert last.clip_id == f"kinetics700-{C}-500-10250"
    (tmp_path / "validate.csv").write_text(f"{HEADER}squat,{A},0,10,validate\n")
    assert [clip.video_id for clip in clips(tmp_path)] == [A]


def test_a_json_that_breaks_off_gives_what_came_before(tmp_path: Path) -> None:
    whole = json.dumps(
        {A: {"annotations": {"label": "squat", "segment": [0, 10]}, "subset": "train"}, B: {"annotations": {}}}
    )
    (tmp_path / "train.json").write_text(whole[:-12])
    first, rest = clips(tmp_path)
    assert first.video_id == A and rest.reason == "bad_row" and "from here on" in (rest.detail or "")


def test_a_compressed_list_that_breaks_off(tmp_path: Path) -> None:
    rows = "".join(f"{os.urandom(6).hex()[:11]},0,10,test\n" for _ in range(5000))
    data = gzip.compress(f"youtube_id,time_start,time_end,split\n{rows}".encode())
    (tmp_path / "test.csv.gz").write_bytes(data)
    assert Counter(clip.reason for clip in clips(tmp_path)) == {None: 5000}
    (tmp_path / "test.csv.gz").write_bytes(data[: len(data) * 2 // 3])
    found = clips(tmp_path)
    assert 1000 < len(found) < 5000 and found[-1].reason == "bad_row" and "EOFError" in (found[-1].detail or "")


def test_class_folders_without_lists(tmp_path: Path) -> None:
    touch(
        tmp_path,
        f"val/high kick/{A}_000005_000015.mp4",
        f"train/squat/{B}.mp4",
        f"train/{C}_000000_000010.mp4",
        "train/squat/noname.mp4",
    )
    found = {clip.media or "bad": clip for clip in clips(tmp_path)}
    named = found[f"val/high kick/{A}_000005_000015.mp4"]
    assert (named.clip_id, named.label, named.split) == (f"kinetics700-{A}-5-15", "high kick", "val")
    assert (found[f"train/squat/{B}.mp4"].label, found[f"train/squat/{B}.mp4"].start) == ("squat", None)
    assert found[f"train/{C}_000000_000010.mp4"].label is None
    assert found["bad"].reason == "bad_row" and "noname.mp4" in (found["bad"].detail or "")


def test_lists_of_other_editions(tmp_path: Path) -> None:
    (tmp_path / "kinetics400").mkdir()
    (tmp_path / "kinetics400" / "val.csv").write_text(f"{HEADER}squat,{A},0,10,val\n")
    assert [clip.source for clip in clips(tmp_path, "kinetics700")] == ["kinetics700"]
    (tmp_path / "k700-2020_train.csv").write_text(f"{HEADER}squat,{B},0,10,train\n")
    assert [clip.video_id for clip in clips(tmp_path, "kinetics700_2020")] == [B]
    assert [clip.video_id for clip in clips(tmp_path, "kinetics400")] == [A]
    with pytest.raises(SourceError, match="kinetics400, kinetics700_2020"):
        clips(tmp_path, "kinetics600")
    (tmp_path / "train.csv").write_text(f"{HEADER}squat,{C},0,10,train\n")
    assert [clip.video_id for clip in clips(tmp_path, "kinetics600")] == [C]


def test_nothing_to_use(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("file,youtube_id,label\na.mp4,x,y\n")
    with pytest.raises(SourceError, match="youtube_id, time_start"):
        clips(tmp_path)
    with pytest.raises(SourceError, match="not a folder"):
        clips(tmp_path / "absent")


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(outside, f"{A}_000000_000010.mp4", f"{B}_000000_000010.mp4")
    touch(root, f"{C}_000000_000010.mp4", "other.mp4")
    (root / "train.csv").write_text(f"{HEADER}squat,{A},0,10,train\nsquat,{B},0,10,train\nsquat,{C},5,15,train\n")
    (root / f"{A}_000000_000010.mp4").symlink_to(outside / f"{A}_000000_000010.mp4")
    (root / "linked").symlink_to(outside)
    (root / f"{C}_000005_000015.mp4").symlink_to(root / "other.mp4")
    first, second, third = clips(root)
    assert (first.media, first.reason) == ("", "not_a_file") and "leads out" in (first.detail or "")
    assert (second.media, second.reason) == ("", None)
    assert third.media == f"{C}_000005_000015.mp4"


def test_only_links_to_folders_is_an_error_that_says_so(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (root / "train").symlink_to(tmp_path / "outside")
    with pytest.raises(SourceError, match=r"links to folders \(train\)"):
        clips(root)


@pytest.mark.data
def test_the_shared_videos_as_root(shared_data: Path) -> None:
    found = clips(shared_data / "videos")
    assert {clip.clip_id: clip.media for clip in found} == {
        "kinetics700-R6llTwEh07w-0-10": "kinetics/R6llTwEh07w_000000_000010.mp4",
        "kinetics700-SOX5yA1l24A-299-309": "kinetics/SOX5yA1l24A_000299_000309.mp4",
    }
    assert all(clip.label == "using segway" and clip.split == "val" for clip in found)


@pytest.mark.data
def test_the_published_lists(shared_data: Path, tmp_path: Path) -> None:
    classes = (shared_data / "labels" / "kinetics700.txt").read_text().splitlines()
    (tmp_path / "validate.csv").write_bytes((shared_data / "labels" / "kinetics700_validate.csv").read_bytes())
    found = clips(tmp_path)
    assert (
        len(found) == 33_909
        and {clip.label for clip in found} == set(classes)
        and not any(clip.reason for clip in found)
    )
    everything = Counter(clip.split for clip in clips(shared_data / "labels"))
    assert everything == {"val": 33_909, "test": 67_009}
    assert len(clips(shared_data / "labels", "kinetics400")) == 19_906
