"""Folder: any videos, with and without labels.csv."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError, SourceError
from dataengine.core.types import Clip
from dataengine.media.encode import write_video


def clips(root: Path, **options: Any) -> list[Clip]:
    found = list(registry.create("sources", "folder", options).discover(root))
    assert len({clip.clip_id for clip in found}) == len(found)
    assert all(
        re.fullmatch(r"folder-[A-Za-z0-9_-]+-\d+-\d+", clip.clip_id) and len(clip.clip_id) <= 120 for clip in found
    )
    return found


def video(path: Path, seconds: float, fps: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = np.zeros((16, 16, 3), np.uint8)
    write_video(path, (frame for _ in range(round(seconds * fps))), fps)
    return path


def test_every_video_at_any_depth_under_an_id_of_its_own(tmp_path: Path) -> None:
    video(tmp_path / "A b" / "Clip.One.mp4", 2)
    for name in ("A b/Clip.One.mkv", "A_b/Clip.One.mp4", "x/" + "long" * 30 + ".mov", "zero.webm", "ünï.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._hidden.mp4").write_text("x")
    (tmp_path / "clips.csv").write_text("file,label\nzero.webm,a\n")
    found = clips(tmp_path)
    assert len(found) == 6 and len({clip.video_id for clip in found}) == 6
    assert [clip.media for clip in found] == sorted(clip.media for clip in found)
    whole = next(clip for clip in found if clip.media == "A b/Clip.One.mp4")
    assert re.fullmatch(r"folder-A_b_Clip_One-[0-9a-f]{8}-0-2000", whole.clip_id)
    assert (whole.start, whole.end, whole.span_start, whole.span_end, whole.label, whole.split) == (
        0.0,
        2.0,
        None,
        None,
        None,
        "train",
    )
    empty = next(clip for clip in found if clip.media == "zero.webm")
    assert empty.clip_id.endswith("-0-0") and empty.reason is None and empty.label is None


@pytest.mark.parametrize(
    ("seconds", "ends"), [(1.0, [1.0]), (4.4, [2.0, 4.4]), (5.0, [2.0, 4.0, 5.0]), (4.6, [2.0, 4.0, 4.6])]
)
def test_long_videos_are_cut_into_windows(tmp_path: Path, seconds: float, ends: list[float]) -> None:
    video(tmp_path / "v.mp4", seconds)
    found = clips(tmp_path, max_seconds=2)
    assert [clip.end for clip in found] == pytest.approx(ends)
    assert [clip.start for clip in found] == [2.0 * i for i in range(len(ends))]
    assert found[-1].span_end is None and len({clip.video_id for clip in found}) == 1
    if len(ends) > 1:
        assert [clip.span_start for clip in found] == [2.0 * i for i in range(len(ends))] and found[0].span_end == 2.0


def test_labels_spans_and_rights(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 3)
    video(tmp_path / "sub" / "b.mp4", 5)
    video(tmp_path / "c.mp4", 1)
    (tmp_path / "labels.csv").write_text(
        "file,label,start,end,split,licence,consent,subject,comment\n"
        "a.mp4,wave,0.5,1.5,validation,CC0-1.0,yes,p1,nice\n"
        "a.mp4,clap,1.5,3,train,,,,\n"
        "./sub/b.mp4,walk,,,test,,,,\n"
        "b.mp4,late,4.5,,,,,,\n"
        "absent/gone.mp4,run,,,,,,,\n"
        "../outside.mp4,run,1,2,,,,,\n"
    )
    wave, clap, *walk, late, gone, outside, rest = clips(tmp_path, max_seconds=2, licence="mine")
    assert (wave.label, wave.split, wave.licence, wave.consent, wave.subject) == ("wave", "val", "CC0-1.0", "yes", "p1")
    assert wave.clip_id.endswith("-500-1500") and (wave.span_start, wave.span_end) == (0.5, 1.5)
    assert (clap.video_id, clap.licence, clap.consent, clap.span_end) == (wave.video_id, "mine", None, 3.0)
    assert (
        [clip.end for clip in walk] == [2.0, 4.0, 5.0]
        and {clip.label for clip in walk} == {"walk"}
        and {clip.split for clip in walk} == {"test"}
    )
    assert (late.media, late.span_start, late.span_end, late.end) == ("sub/b.mp4", 4.5, None, 5.0)
    assert (gone.media, gone.label, gone.reason) == ("", "run", "media_missing")
    assert (outside.media, outside.reason) == ("", "media_missing")
    assert (rest.media, rest.label, rest.licence) == ("c.mp4", None, "mine")


def test_bad_and_repeated_rows(tmp_path: Path) -> None:
    for name in ("x/a.mp4", "y/a.mp4", "b.mp4"):
        video(tmp_path / name, 1)
    (tmp_path / "labels.csv").write_text(
        "file,label,start,end,split\n"
        "a.mp4,wave,,,\n"
        ",wave,,,\n"
        "b.mp4,wave,zero,1,\n"
        "b.mp4,wave,1,0.5,\n"
        "b.mp4,wave,0,1,tset\n"
        "b.mp4,wave,0,1,\n"
        "b.mp4,wave,0.0,1.0,\n"
        "b.mp4,clap,0,1,\n"
        "b.mp4,wave\n"
    )
    found = clips(tmp_path)
    assert [clip.reason for clip in found] == ["bad_row"] * 5 + [None, "duplicate_id", "bad_row", "bad_row", "bad_row"]
    told = [clip.detail or "" for clip in found]
    for detail, says in zip(told, ["may mean 2 files", "is empty", "'zero'", "not after", "'tset'"]):
        assert says in detail
    assert "labels.csv line 9" in told[6] and "'clap'" in told[6]
    assert all("a row names it" in detail for detail in told[-2:])  # a file with a wrong row never comes in without one


def rows_of(root: Path, *rows: str) -> dict[str, tuple[str | None, str, str | None]]:
    """Media, or what was said -> label, split and reason of each clip, where the rows are file, label, split."""
    (root / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    return {clip.media or clip.detail or "": (clip.label, clip.split, clip.reason) for clip in clips(root)}


@pytest.mark.parametrize(
    "name", ["a", "A.MP4", "/data/here/a.mp4", "C:\\videos\\A.mp4", "videos/a.mp4", "./a.mp4", "a.avi/../a.mp4"]
)
def test_a_row_means_its_file_however_it_is_written(tmp_path: Path, name: str) -> None:
    video(tmp_path / "a.mp4", 1)
    video(tmp_path / "sub" / "b.mp4", 1)
    assert rows_of(tmp_path, f"{name},jump,test") == {
        "a.mp4": ("jump", "test", None), "sub/b.mp4": (None, "train", None),
    }  # fmt: skip


def test_a_row_means_its_file_in_either_unicode_form(tmp_path: Path) -> None:
    video(tmp_path / "pirouette-e\u0301.mp4", 1)
    assert rows_of(tmp_path, "pirouette-\u00e9.mp4,turn,test") == {"pirouette-e\u0301.mp4": ("turn", "test", None)}


def test_a_row_without_a_file_names_the_nearest_and_a_path_means_no_namesake(tmp_path: Path) -> None:
    video(tmp_path / "val" / "001.mp4", 1)
    video(tmp_path / "walking.mp4", 1)
    told = rows_of(tmp_path, "train/001.mp4,run,train", "wolking.mp4,walk,test")
    assert {text for text, (_, _, reason) in told.items() if reason} == {
        "labels.csv line 2: there is no file 'train/001.mp4' in the folder; the nearest name is 'val/001.mp4'",
        "labels.csv line 3: there is no file 'wolking.mp4' in the folder; the nearest name is 'walking.mp4'",
    }


@pytest.mark.parametrize(
    "row",
    [
        "a.mp4,pi\xf1ata,test".encode("latin-1"),
        "\xe4.mp4,jump,test".encode("latin-1"),
        b"a.mp4,jump,tset",
        b"a.mp4,jump",
        b'a.mp4,"jump,test',
        b"A,jump,test,more",
    ],
)
def test_a_file_with_a_wrong_row_never_comes_in_without_a_label(tmp_path: Path, row: bytes) -> None:
    name = "\xe4.mp4" if row.startswith(b"\xe4") else "a.mp4"
    video(tmp_path / name, 1)
    video(tmp_path / "b.mp4", 1)
    (tmp_path / "labels.csv").write_bytes(b"file,label,split\n" + row + b"\nb.mp4,run,test\n")
    found = clips(tmp_path)
    assert [clip.media for clip in found if clip.reason is None] == ["b.mp4"]
    assert {clip.reason for clip in found} == {None, "bad_row"} and len(found) == 3


@pytest.mark.parametrize(
    "content",
    [
        "file,label\r\na.mp4,jump\r\n".encode("utf-16"),
        "file,label\na.mp4,jump\n".encode("utf-16-le"),
        "file,label\na.mp4,jump\n".encode("utf-16-be"),
        "file,label\na.mp4,jump\n".encode("utf-8-sig"),
        b"file,label\ra.mp4,jump\r",
        b"file;label\na.mp4;jump\n",
        b"file\tlabel\na.mp4\tjump\n",
    ],
)
def test_tables_are_read_as_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    video(tmp_path / "a.mp4", 1)
    (tmp_path / "labels.csv").write_bytes(content)
    (clip,) = clips(tmp_path)
    assert (clip.media, clip.label, clip.reason) == ("a.mp4", "jump", None)


def test_an_empty_table_is_named(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 1)
    (tmp_path / "labels.csv").write_bytes(b"")
    with pytest.raises(SourceError, match=r"labels\.csv has no header; want file, label"):
        clips(tmp_path)


def test_links_in_a_circle_are_rejected_by_name(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 1)
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "folder").symlink_to(".")
    told = {clip.media or clip.detail or "": clip.reason for clip in clips(tmp_path)}
    assert told == {
        "a.mp4": None,
        "a link that leads nowhere: to itself, or in a circle": "not_a_file",
        "a link to a folder is not followed": "not_a_file",
    }


def test_what_libav_reads_is_planned_whatever_its_ending(tmp_path: Path) -> None:
    for name in ("b.ts", "00001.MTS", "anim.gif", "raw.h264", "a.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert {clip.media for clip in clips(tmp_path)} == {"b.ts", "00001.MTS", "anim.gif", "raw.h264", "a.mp4"}


def test_labels_elsewhere_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    root, lists = tmp_path / "root", tmp_path / "lists"
    video(root / "a.mp4", 1)
    lists.mkdir()
    (root / "mine.csv").write_text("file,label\na.mp4,wave\n")
    assert clips(root, labels="mine.csv")[0].label == "wave"
    (lists / "other.csv").write_text("label,file\nclap,a.mp4\n")
    assert clips(root, labels=str(lists / "other.csv"))[0].label == "clap"
    with pytest.raises(SourceError, match="neither in"):
        clips(root, labels="absent.csv")
    (root / "bad.csv").write_text("path;label\na.mp4;wave\n")
    with pytest.raises(SourceError, match="at least file"):
        clips(root, labels="bad.csv")
    (root / "typo.csv").write_text("file,lable\na.mp4,wave\n")
    with pytest.raises(SourceError, match="did you mean 'label'"):
        clips(root, labels="typo.csv")


def test_odd_entries_are_reported_and_never_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.mp4"
    video(outside, 1)
    root.mkdir()
    (root / "link.mp4").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "dangling.mp4").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.mp4")
    (root / "folder.mp4").mkdir()
    video(root / "folder.mp4" / "in.mp4", 1)
    (root / os.fsdecode(b"bad\xff.mp4")).write_bytes(b"")
    found = {clip.media or (clip.detail or ""): clip for clip in clips(root)}
    assert {"folder.mp4/in.mp4", "pipe.mp4", "dangling.mp4"} <= set(found)
    reasons = sorted(clip.reason for clip in found.values() if clip.reason)
    assert reasons == ["not_a_file"] * 3
    assert (
        any("leads out" in name for name in found)
        and any("not followed" in name for name in found)
        and any("UTF-8" in name for name in found)
    )


def test_nothing_to_use_and_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no video file"):
        clips(tmp_path)
    with pytest.raises(ComponentError, match="max_seconds"):
        registry.create("sources", "folder", {"max_seconds": 0})
    with pytest.raises(ComponentError, match="split"):
        registry.create("sources", "folder", {"split": "dev"})


@pytest.mark.data
def test_the_shared_videos(shared_data: Path) -> None:
    found = clips(shared_data / "videos")
    assert len(found) == 22 and not any(clip.reason for clip in found)
    cut = [clip for clip in clips(shared_data / "videos", max_seconds=4) if clip.media == "R6llTwEh07w.mp4"]
    assert [clip.start for clip in cut] == [0.0, 4.0, 8.0]
