"""Folder: any videos, with and without labels.csv."""

from __future__ import annotations

import errno
import gzip
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
    assert all(
        "names it or may mean it" in detail for detail in told[-2:]
    )  # a file with a wrong row never comes in without one


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
        "labels.csv line 2 names it or may mean it, and no row that names it can be used",
    }


@pytest.mark.parametrize(
    ("name", "files", "means"),
    [
        ("a.avi", ["a.mp4"], "a.mp4"),  # converted since
        ("sub/B", ["sub/b.mp4", "c/b.mp4"], "sub/b.mp4"),
        ("../videos/sub/b.mp4", ["sub/b.mp4"], "sub/b.mp4"),
        ("file:///data/sub/b.mp4", ["sub/b.mp4"], "sub/b.mp4"),
        ("clip.v2", ["clip.v2.mp4", "clip.mp4"], "clip.v2.mp4"),
        ("\uff41.mp4", ["a.mp4"], "a.mp4"),
        ("Stra\u00dfe.MP4", ["STRASSE.mp4"], "STRASSE.mp4"),
        ("A.mp4", ["a.mp4", "A.mp4"], "A.mp4"),
        ("e\u0301.mp4", ["\u00e9.mp4", "e\u0301.mp4"], "e\u0301.mp4"),
        ("a", ["a.mp4", "a.txt"], "a.mp4"),
        ("clip", ["clip"], "clip"),
        ("a[1]*?.mp4", ["a[1]*?.mp4", "a1x.mp4"], "a[1]*?.mp4"),
        ("x" * 240 + ".MP4", ["x" * 240 + ".mp4"], "x" * 240 + ".mp4"),
    ],
)
def test_a_name_means_the_one_file_it_may_mean(tmp_path: Path, name: str, files: list[str], means: str) -> None:
    for file in files:
        video(tmp_path / file, 0.4) if file.endswith("mp4") else (tmp_path / file).write_bytes(b"\0\0\0\x18ftypisom")
    (tmp_path / "a.txt").exists() and (tmp_path / "a.txt").write_text("notes")
    told = rows_of(tmp_path, f"{name},jump,test")
    assert told.pop(means) == ("jump", "test", None)
    assert all(label is None for label, _, _ in told.values())


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("a", ["a.mp4", "a.mkv"]),
        ("a.avi", ["a.mp4", "a.mkv"]),
        ("A.Mp4", ["a.mp4", "A.mp4"]),
        ("a.mp4", ["x/a.mp4", "y/a.mp4"]),
        ("x/a.mp4", ["a.mp4", "x/b.mp4"]),  # it says that a.mp4 lies in x, which is there
        ("train/a.mp4", ["val/a.mp4"]),
        ("a.txt", ["sub/a.mp4"]),
    ],
)
def test_what_a_row_may_mean_and_cannot_be_told_stays_out(tmp_path: Path, name: str, files: list[str]) -> None:
    for file in files:
        video(tmp_path / file, 0.4)
    video(tmp_path / "other.mp4", 0.4)
    (tmp_path / "labels.csv").write_text(f"file,label,split\n{name},jump,test\n")
    usable = {clip.media for clip in clips(tmp_path) if clip.reason is None}
    assert usable <= {"other.mp4", "x/b.mp4"} and "other.mp4" in usable


def test_an_absolute_path_below_the_folder_means_that_file_alone(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 0.4)
    (told,) = [clip.media for clip in clips(tmp_path)]
    assert told == "a.mp4"
    assert rows_of(tmp_path, f"{tmp_path}/a.mp4,jump,test") == {"a.mp4": ("jump", "test", None)}
    assert "a.mp4" not in rows_of(tmp_path, f"{tmp_path}/sub/a.mp4,jump,test")


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        (["a.mp4,jump,test", "a.mp4,jump,train"], {}),
        (["a.mp4,jump,test", "A,jump,train", "b.mp4,run,"], {"b.mp4": "train"}),
        (["train/a.mp4,jump,", "val/a.mp4,run,"], {}),  # two files once, one here
        (["a,jump,test", "videos/a.mp4,jump,test"], {"a.mp4": "test"}),
        (["a.mp4,jump,test", "a.mp4,jump,"], {"a.mp4": "test"}),  # no split is no contradiction
        (["a.mp4,jump,tset", "a.mp4,jump,test"], {"a.mp4": "test"}),
        (["a.mp4,jump,test", "a.mp4,run,test"], {"a.mp4": "test"}),
    ],
)
def test_rows_that_contradict_each_other_in_the_split_are_both_out(
    tmp_path: Path, rows: list[str], taken: dict[str, str]
) -> None:
    video(tmp_path / "a.mp4", 0.4)
    video(tmp_path / "b.mp4", 0.4)
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    found = clips(tmp_path)
    usable = {clip.media: clip.split for clip in found if clip.reason is None}
    assert {"b.mp4": "train", **taken} == usable
    assert "a.mp4" in usable or any("says other things" in (clip.detail or "") for clip in found)


def test_spans_of_one_file_in_two_splits_do_not_overlap(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 4)
    (tmp_path / "labels.csv").write_text("file,start,end,split\na.mp4,0,2,train\na.mp4,1,3,test\na.mp4,3,4,test\n")
    assert [(clip.media, clip.split, clip.reason) for clip in clips(tmp_path)] == [
        ("", "train", "bad_row"), ("", "train", "bad_row"), ("a.mp4", "test", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("a.mp4,pi\xf1ata,test".encode("latin-1"), "a.mp4"),
        ("\xe4.mp4,jump,test".encode("latin-1"), "\xe4.mp4"),
        ("\xe4.mp4,jump,test".encode("cp850"), "\xe4.mp4"),
        ("\xe4.mp4,jump,test".encode("mac_roman"), "\xe4.mp4"),
        ("\u8d70\u30bd.mp4,jump,test".encode("cp932"), "\u8d70\u30bd.mp4"),
        ("\u8d70.mp4,jump,test".encode("gb18030"), "\u8d70.mp4"),
        ("\xe4\ufffd.mp4,jump,test".encode(), "\xe4\xf6.mp4"),
        (b"a.mp4,jump,tset", "a.mp4"),
        (b"a.mp4,jump", "a.mp4"),
        (b'a.mp4,"jump,test', "a.mp4"),
        (b"A,jump,test,more", "a.mp4"),
        (b"a.mp4\0,jump,test", "a.mp4"),
        (b"a.mp4;jump;test", "a.mp4"),
        (b"my, clip.mp4,jump,test", "my, clip.mp4"),
        (b"'a.mp4',jump,test,", "a.mp4"),
    ],
)
def test_a_file_with_a_wrong_row_never_comes_in_without_a_label(tmp_path: Path, row: bytes, name: str) -> None:
    video(tmp_path / name, 0.4)
    video(tmp_path / "b.mp4", 0.4)
    (tmp_path / "labels.csv").write_bytes(b"file,label,split\n" + row + b"\nb.mp4,run,test\n")
    found = clips(tmp_path)
    assert [clip.media for clip in found if clip.reason is None] == ["b.mp4"]
    assert {clip.reason for clip in found} == {None, "bad_row"} and len(found) == 3


def test_a_table_that_breaks_off_is_refused_since_its_rest_is_not_known(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 0.4)
    packed = gzip.compress(b"file,label\n" + b"".join(b"%d.mp4,jump\n" % n for n in range(9000)), mtime=0)
    (tmp_path / "labels.csv.gz").write_bytes(packed[:-2000])
    with pytest.raises(SourceError, match=r"labels\.csv\.gz line \d+: the file cannot be read from here on"):
        clips(tmp_path, labels="labels.csv.gz")


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
        "file,label\na.mp4,jump\n".encode("utf-32"),
        "file,label\na.mp4,jump\n".encode("utf-32-be"),
        "\ufefffile,label\na.mp4,jump\n".encode("utf-16-be"),
        "\ufeff\ufefffile,label\na.mp4,jump\n".encode(),
        "File,label,\u8d70\u308b\u8d70\u308b\u8d70\u308b\u8d70\u308b\u8d70\u308b\na.mp4,jump,\n".encode("utf-16-le"),
        b"file,label\r\ra.mp4,jump\n\r\n",
        b"\n\r\nfile,label\na.mp4,jump",
        b"sep=;\r\nfile;label\r\na.mp4;jump\r\n",
        b"file|label\na.mp4|jump\n",
        b' "File" , LABEL ,start\n"a.mp4", "jump" ,\n',
        b"file;start;end;label\na.mp4;0,0;0,4;jump\n",
        b",file,label\n0,a.mp4,jump\n",
    ],
)
def test_tables_are_read_as_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    video(tmp_path / "a.mp4", 0.4)
    (tmp_path / "labels.csv").write_bytes(content)
    (clip,) = clips(tmp_path)
    assert (clip.media, clip.label, clip.reason) == ("a.mp4", "jump", None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no header"),
        (b" \r\n\n", "has no header"),
        (bytes(300), "has no header"),
        (b"PK\x03\x04" + bytes(range(200)), "is a zip archive, not a CSV"),
        (b"%PDF-1.7 x,y\n", "is a PDF document, not a CSV"),
        (b"a.mp4,jump\n", "has the columns a.mp4, jump"),
        (b"file,label,file\na.mp4,jump,b.mp4\n", "has the column 'file' more than once"),
    ],
)
def test_what_is_no_table_of_labels_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    video(tmp_path / "a.mp4", 0.4)
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(SourceError, match=r"labels\.csv") as error:
        clips(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_labels_csv_in_another_case_is_read_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 0.4)
    (tmp_path / "Labels.CSV").write_text("file,label\na.mp4,jump\n")
    assert [clip.label for clip in clips(tmp_path)] == ["jump"]
    (tmp_path / "LABELS.csv").write_text("file,label\na.mp4,run\n")
    with pytest.raises(SourceError, match=r"holds LABELS\.csv and Labels\.CSV; keep one"):
        clips(tmp_path)
    (tmp_path / "labels.csv").symlink_to("nowhere.csv")
    with pytest.raises(SourceError, match=r"labels\.csv is no file that can be read"):
        clips(tmp_path)
    (tmp_path / "labels.csv").unlink()
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(SourceError, match=r"labels\.csv is no file that can be read"):
        clips(tmp_path)


def test_links_in_a_circle_are_rejected_by_name(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 0.4)
    links = {"self.mp4": "self.mp4", "one": "two", "two": "one", "here": ".", "up": "..", "x.csv": "x.csv"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    told = {(clip.video_id.rsplit("-", 1)[0], clip.reason, clip.detail) for clip in clips(tmp_path)}
    circle = "a link that leads nowhere: to itself, or in a circle"
    assert told == {
        ("a", None, None),
        *((name, "not_a_file", circle) for name in ("self", "one", "two", "x")),
        *((name, "not_a_file", "a link to a folder is not followed") for name in ("here", "up")),
    }
    rows = rows_of(tmp_path, "self,jump,test", "one,jump,test", "here/a.mp4,jump,test", "up/b.mp4,run,test")
    assert rows["a.mp4"] == ("jump", "test", None)
    assert not any("there is no file" in text for text in rows)


def test_folders_that_cannot_be_read_or_named_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video(tmp_path / "shut" / "a.mp4", 0.4)
    video(tmp_path / os.fsdecode(b"bad\xff") / "a.mp4", 0.4)
    video(tmp_path / "b.mp4", 0.4)
    scan = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    told = {clip.media or clip.detail: clip.reason for clip in clips(tmp_path)}
    assert told == {
        "b.mp4": None,
        "the folder cannot be listed: Permission denied": "not_a_file",
        "the name of the folder is not valid UTF-8": "not_a_file",
    }
    rows = rows_of(tmp_path, "shut/a.mp4,jump,test")
    assert "labels.csv line 2: 'shut/a.mp4' lies in 'shut/': the folder cannot be listed: Permission denied" in rows


HEADS = {
    "mpeg-4": b"\0\0\0\x18ftypisom",
    "quicktime": b"\0\0\0\x08wide\0\0\0\x10mdat",
    "matroska": b"\x1aE\xdf\xa3",
    "avi": b"RIFF\0\0\0\0AVI LIST",
    "flash": b"FLV\x01\x05",
    "broadcast": (b"G" + bytes(187)) * 4,
    "camera": b"\0\0\0\0" + (b"G" + bytes(191)) * 4,
    "program stream": b"\0\0\x01\xba",
    "windows media": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "theora": b"OggS" + bytes(24) + b"\x80theora",
    "gif": b"GIF89a",
    "h264": b"\0\0\0\x01\x67",
}


def test_what_libav_reads_is_planned_whatever_its_ending(tmp_path: Path) -> None:
    names = [
        "b.ts",
        "00001.MTS",
        "x.M2TS",
        "a.mpg",
        "a.wmv",
        "a.flv",
        "a.3gp",
        "a.ogv",
        "anim.gif",
        "raw.h264",
        "a.Mp4",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    for number, head in enumerate(HEADS.values()):
        (tmp_path / f"no_ending_{number}").write_bytes(head)
        (tmp_path / f"unseen.{number}").write_bytes(head)
        names += [f"no_ending_{number}", f"unseen.{number}"]
    assert {clip.media for clip in clips(tmp_path)} == set(names)


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 0.4)
    for name in ("notes.txt", "cover.jpg", "sound.wav", "a.mp4.part", ".hidden.mp4", "README", "still.webp"):
        (tmp_path / name).write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    source = registry.create("sources", "folder", {})
    (remark,) = source.remarks(tmp_path)
    assert remark == (
        "folder: passed over, since they are no videos: 7 files (1 .mp4, 1 no ending, 1 .part, 1 .jpg): "
        ".hidden.mp4, README, a.mp4.part, ..."
    )
    (tmp_path / "labels.csv").write_text("file,label\na.mp4,jump\ngone.mp4,run\n")
    assert next(source.remarks(tmp_path)) == (
        "folder: 1 row of labels.csv cannot be used (the first in line 3; after the build `audit OUT rejects` tells "
        "why); 0 videos that no row names come in without a label"
    )


def test_a_row_about_a_file_that_is_there_never_says_that_there_is_none(tmp_path: Path) -> None:
    video(tmp_path / "frames" / "b.mp4", 0.4)
    names = ["notes.txt", "cover.jpg", "sound.wav", "a.mp4.part", ".hidden.mp4", "README", "x.json", "no.ending"]
    for name in names:
        (tmp_path / name).write_bytes(b"hello")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    rows = [f"{name},jump,test" for name in (*names, "pipe", "frames", "out.txt", "SOUND")]
    told = rows_of(tmp_path, *rows)
    assert not any("there is no" in text for text in told)
    assert {*names, "pipe"} <= set(told) and "frames/b.mp4" in told
    assert any("'frames' is a folder" in text for text in told)
    assert any("'out.txt': a link that leads out" in text for text in told)


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
