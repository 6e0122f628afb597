"""The spool: saved poses of any format in one form, in parts of some megabytes that units of a build read.

::

    <cache>/imported-<stamp16>/
      parts/<hash16>.tar        entries of some clips: json, keypoints, scores, and frames, boxes, identities of people
                                that nobody linked yet; named by content
      clips.parquet             a row for each clip and each annotation that cannot be taken, in the order of the file
      facts.json                layout, classes, notes, counts

It is made beside and renamed when it is complete. The stamp is that of the files and options, so another file, or a
file that changed, makes another spool.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core.class_numbers import class_number
from dataengine.core.errors import SourceError
from dataengine.core.normalised import Scale, scale_of, to_pixels
from dataengine.core.skeletons import skeleton
from dataengine.core.types import Float
from dataengine.io.shards import ShardWriter
from dataengine.io.storage import PARTIAL, locked
from dataengine.sources import ids
from dataengine.sources.imported.formats import LAYOUTS, Format, Reader
from dataengine.sources.imported.saved_clip import (
    MARGIN,
    MAX_FRAMES,
    SPOOL_LOCK,
    SavedClip,
    drop_absurd,
    extent,
    printable,
    stacked,
)

VERSION = 2
"""Raise when the same files give another spool."""
PART_BYTES = 8 << 20
ROWS_AT_ONCE = 4096
SCREEN = 4.0
"""Coordinates of UNIK's unit stay below, unless a joint lies far outside the picture."""
HIGH = 2.0
"""Scores of heat maps may pass 1 a little; from here on they are of another unit."""
_RATE = re.compile(r"\s*[+]?[\d./]{1,40}(?:[eE][+-]?\d{1,2})?\s*")
"""Frame rates as texts; a longer exponent would be a number without bound."""

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "name", "video_id", "media", "split", "label", "subject")),
        *((name, pa.string()) for name in ("licence", "consent", "reason", "detail")),
        ("number", pa.int32()),
        ("end", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Settings:
    """What of a source decides its spool.

    Attributes:
        fps: frames per second where the files do not tell. size: width and height where they do not tell.
        layout: of the joints; '' by their number. scale: of coordinates; 'auto' tells it clip by clip.
        split: of clips that neither file nor table gives one.
        table: facts by name of a clip (label, split, subject, licence, consent, fps, width, height).
    """

    source: str
    format: Format
    fps: float = 30.0
    size: tuple[int, int] | None = None
    layout: str = ""
    scale: str = "auto"
    split: str = "train"
    table: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def make(
    folder: Path, reader: Callable[[], Reader], settings: Settings, progress: Callable[[int], None] = lambda n: None
) -> None:
    """Make the spool at `folder`, unless it is there.

    Raises:
        SourceError: the files are of another format, or nothing of them can be taken.
    """
    if (folder / "facts.json").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / SPOOL_LOCK):
        if (folder / "facts.json").is_file():
            return
        partial = folder.parent / f".{folder.name}{PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
        try:
            (partial / "parts").mkdir(parents=True)
            spool = _Spool(partial, settings)
            facts = spool.fill(reader(), progress)
            if (most := spool.layout_of_most()) not in ("", spool.layout):
                shutil.rmtree(partial)
                (partial / "parts").mkdir(parents=True)
                facts = _Spool(partial, replace(settings, layout=most)).fill(reader(), lambda count: None)
            if note := spool.note_of_joints(most):
                facts["notes"].append(note)
            text = json.dumps(facts, sort_keys=True, indent=1, ensure_ascii=False)
            (partial / "facts.json").write_text(text, encoding="utf-8")
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class _Spool:
    """The spool while it is written."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.layout = settings.layout
        self.rows: list[dict[str, Any]] = []
        self.pending: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.bytes = 0
        self.seen: set[str] = set()
        self.used: set[str] = set()
        self.counts = {
            "clips": 0,
            "taken": 0,
            "unknown_size": 0,
            "unknown_fps": 0,
            "scaled": 0,
            "repeated": 0,
            "high": 0,
        }
        self.first_refusal = ""
        self.pairs: set[tuple[int, str]] = set()
        self.joints = Counter[int]()
        self.guessed = False

    def fill(self, reader: Reader, progress: Callable[[int], None]) -> dict[str, Any]:
        with pq.ParquetWriter(self.folder / "clips.parquet", SCHEMA, compression="zstd") as table:
            for clip in reader.clips():
                self.layout = self.layout or reader.layout
                self._add(clip)
                self.counts["clips"] += 1
                progress(1)
                if self.bytes >= PART_BYTES or len(self.rows) >= ROWS_AT_ONCE:
                    self._close_part()
                    self._write_rows(table)
            self._close_part()
            self._write_rows(table)
        if not self.counts["clips"]:
            raise SourceError("it holds no clips, so that there is nothing to import")
        if not self.counts["taken"]:
            why = f"; the first: {self.first_refusal}" if self.first_refusal else ""
            raise SourceError(f"none of its {self.counts['clips']} clips can be taken{why}")
        return {
            "layout": self.layout,
            "classes": [printable(name) for name in reader.classes] or self._classes(),
            "notes": [printable(note) for note in (*reader.notes, *self._notes())],
            "counts": self.counts,
        }

    def layout_of_most(self) -> str:
        """The layout of most clips where their joints alone tell it; '' where one was given."""
        known = LAYOUTS[self.settings.format]
        if not self.guessed:
            return ""
        return known[max((joints for joints in self.joints if joints in known), key=lambda joints: self.joints[joints])]

    def note_of_joints(self, most: str) -> str:
        """What is told of clips of several numbers of joints where no layout was given; '' of one number."""
        if not most or len(self.joints) < 2:
            return ""
        held = " and ".join(f"{count} clips of {joints} joints" for joints, count in sorted(self.joints.items()))
        return f"it holds {held}; the layout {most} is taken and the others are left out: --layout takes another"

    def _classes(self) -> list[str]:
        """Names of classes by number, where clips have both; none where they contradict each other."""
        names = dict(self.pairs)
        if not names or len(names) < len(self.pairs) or len(set(names.values())) < len(names):
            return []
        found = [names.get(number, str(number)) for number in range(max(names) + 1)]
        return found if len(set(found)) == len(found) else []

    def _notes(self) -> Iterator[str]:
        counts = self.counts
        if counts["unknown_fps"]:
            yield (
                f"{counts['unknown_fps']} clips do not tell their frame rate; {self.settings.fps:g} frames a second "
                "are assumed: --fps gives it"
            )
        if counts["unknown_size"]:
            yield (
                f"{counts['unknown_size']} clips do not tell the size of the picture; it is taken {MARGIN:g} times as "
                "large as the people's extent: --size WIDTHxHEIGHT gives it"
            )
        if counts["scaled"]:
            yield f"{counts['scaled']} clips have coordinates relative to the picture, which were scaled to pixels"
        if counts["high"]:
            yield f"{counts['high']} clips have scores above {HIGH:g}, which are taken for 1; scores go from 0 to 1"
        if counts["repeated"]:
            yield f"{counts['repeated']} annotations repeat the id of an earlier one and are left out (duplicate_id)"
        unused = [name for name in self.settings.table if name not in self.used]
        if unused:
            yield f"{len(unused)} rows of the table name no clip of the files, for example {unused[0]!r}"

    def _write_rows(self, table: pq.ParquetWriter) -> None:
        if self.rows:
            table.write_table(pa.Table.from_pylist(self.rows, SCHEMA))
            self.rows = []

    def _close_part(self) -> None:
        """Write the clips that wait as one part, named by its content."""
        if not self.pending:
            return
        path = self.folder / "parts" / "next.tar"
        with ShardWriter(path) as writer:
            for row, entries in self.pending:
                writer.write(row["clip_id"], entries)
        assert writer.shard is not None
        name = f"{writer.shard.blake3[:16]}.tar"
        path.rename(self.folder / "parts" / name)
        for row, _ in self.pending:
            row["media"] = f"parts/{name}"
        self.pending, self.bytes = [], 0

    def _add(self, clip: SavedClip) -> None:
        for name in ("name", "label", "subject", "licence", "detail"):
            if getattr(clip, name):
                setattr(clip, name, printable(getattr(clip, name)))
        facts = self._facts(clip)
        row: dict[str, Any] = {
            "name": clip.name,
            "video_id": ids.slug(clip.name),
            "media": "",
            "split": clip.split or self.settings.split,
            "label": clip.label,
            "number": clip.number,
            "subject": clip.subject,
            "licence": clip.licence,
            "consent": facts.get("consent") or None,
            "reason": clip.reason,
            "detail": clip.detail or None,
            "end": None,
        }
        entries = None
        rate = Fraction(30)
        if clip.reason is None:
            try:
                rate, known = self._rate(clip, facts)
                entries = self._entries(clip, facts, rate)
                self.counts["unknown_fps"] += not known
            except ValueError as error:
                row["reason"], row["detail"] = "bad_row", str(error)
        if clip.num_frames:
            row["end"] = float(clip.num_frames / rate)
        row["clip_id"] = ids.clip_id(self.settings.source, row["video_id"], 0.0, row["end"] or 0.0, milliseconds=True)
        if clip.name in self.seen and row["reason"] is None:
            row["reason"], entries = "duplicate_id", None
            row["detail"] = f"{clip.name!r} stands at an earlier annotation"
            self.counts["repeated"] += 1
        if row["reason"] is None:
            self.seen.add(clip.name)
        self.rows.append(row)
        if entries is not None and row["reason"] is None:
            if clip.label is not None and clip.number >= 0:
                self.pairs.add((clip.number, clip.label))
            self.counts["taken"] += 1
            self.pending.append((row, entries))
            self.bytes += sum(value.nbytes for value in entries.values() if isinstance(value, np.ndarray))
        elif not self.first_refusal:
            self.first_refusal = " ".join(f"{clip.name}: {row['detail']}".split())

    def _facts(self, clip: SavedClip) -> Mapping[str, str]:
        """The row of the table about a clip; what it says goes before what the file says."""
        name = clip.name if clip.name in self.settings.table else clip.name.rpartition("/")[2]
        facts = self.settings.table.get(name)
        if facts is None:
            return {}
        self.used.add(name)
        clip.label = facts.get("label") or clip.label
        try:
            clip.number = int(facts.get("label_id") or clip.number)
            class_number(clip.number)
        except ValueError:
            clip.reason, clip.detail = "bad_row", f"its label_id is {facts['label_id'][:60]!r}; allowed: a whole number"
            clip.number = -1
        clip.subject, clip.licence = facts.get("subject") or clip.subject, facts.get("licence") or clip.licence
        _lengthen(clip, facts.get("num_frames", ""))
        if facts.get("split"):
            try:
                clip.split = ids.split_named(facts["split"])
                if clip.reason == "not_in_split":
                    clip.detail = "its annotation was left out by the splits of the file"
            except ValueError as error:
                clip.reason, clip.detail = "bad_row", str(error)
        return facts

    def _rate(self, clip: SavedClip, facts: Mapping[str, str]) -> tuple[Fraction, bool]:
        given = facts.get("fps") or clip.fps
        if not given:
            return Fraction(self.settings.fps).limit_denominator(1001), False
        try:
            found = Fraction(given).limit_denominator(1001) if _RATE.fullmatch(given) else Fraction(0)
        except (ValueError, ZeroDivisionError, OverflowError):
            found = Fraction(0)
        if not 0 < found <= 1000:
            raise ValueError(f"its frame rate is {given[:60]!r}; allowed: frames per second, such as 25 or 30000/1001")
        return found, True

    def _entries(self, clip: SavedClip, facts: Mapping[str, str], rate: Fraction) -> dict[str, Any]:
        """What the part holds of a clip.

        Raises:
            ValueError: the clip cannot be taken.
        """
        arrays: dict[str, Any]
        if clip.tracks is not None:
            arrays = {"keypoints": clip.tracks[0], "scores": clip.tracks[1]}
        else:
            assert clip.people is not None, "a clip without a reason has people"
            arrays = dict(stacked(clip.people))
        points = arrays["keypoints"]
        self.counts["high"] += bool(arrays["scores"].max(initial=0) > HIGH)
        self._check_layout(points.shape[-2])
        size = clip.size or self.settings.size
        if facts.get("width") and facts.get("height"):
            if not all(re.fullmatch(r"\d{1,6}", facts[side]) and int(facts[side]) for side in ("width", "height")):
                raise ValueError(
                    f"its size is {facts['width']!r} x {facts['height']!r}; allowed: whole numbers of pixels"
                )
            size = (int(facts["width"]), int(facts["height"]))
        scale = self._scale(points)
        known = size is not None
        if scale != "pixels":
            if size is None:
                raise ValueError(
                    "its coordinates are relative to the picture, whose size the file does not tell: give "
                    "--size WIDTHxHEIGHT"
                )
            arrays["keypoints"] = to_pixels(points, scale, *size)
            self.counts["scaled"] += 1
        clip.left_out += drop_absurd(arrays, size)
        if size is None:
            size = extent(arrays["keypoints"])
            self.counts["unknown_size"] += 1
        meta = {
            "name": clip.name,
            "layout": self.layout,
            "fps": f"{rate.numerator}/{rate.denominator}",
            "width": size[0],
            "height": size[1],
            "size_known": known,
            "num_frames": clip.num_frames,
            "left_out": clip.left_out,
        }
        return {"json": meta, **{f"{name}.npy": np.ascontiguousarray(array) for name, array in arrays.items()}}

    def _scale(self, points: Float) -> Scale:
        """What coordinates are, as the user says or as they look."""
        if self.settings.scale != "auto":
            return cast(Scale, self.settings.scale)
        if self.settings.format == "unik":  # in its own unit, unless they are pixels
            return "screen" if np.nanmax(np.abs(points)) <= SCREEN else "pixels"
        return scale_of(points)

    def _check_layout(self, joints: int) -> None:
        self.joints[joints] += 1
        if not self.layout:
            found = LAYOUTS[self.settings.format].get(joints)
            if found is None:
                raise ValueError(f"{joints} joints are no layout that is known: give --layout")
            self.layout, self.guessed = found, True
        wanted = skeleton(self.layout).num_joints
        if joints != wanted:
            raise ValueError(f"it has {joints} joints, the layout {self.layout} has {wanted}")


def erase(folder: Path, clip_ids: Collection[str]) -> int:
    """Overwrite what a spool holds of clips with zeros, at the same length; the number of clips found.

    Raises:
        OSError: a part cannot be read or written.
    """
    found = set[str]()
    for path in sorted((folder / "parts").glob("*.tar")) if clip_ids else ():
        with tarfile.open(path) as archive:
            members = [(m.name.partition(".")[0], m.offset_data, m.size) for m in archive]
        own = [member for member in members if member[0] in clip_ids]
        if own:
            with path.open("r+b") as file:
                for key, offset, size in own:
                    file.seek(offset)
                    file.write(bytes(size))
                    found.add(key)
                file.flush()
                os.fsync(file.fileno())
    return len(found)


def _lengthen(clip: SavedClip, frames: str) -> None:
    """Give a clip the frames behind its last people, of which the table tells and its format does not."""
    if not re.fullmatch(r"\d{1,9}", frames) or not clip.num_frames < int(frames) <= MAX_FRAMES:
        return
    more, clip.num_frames = int(frames) - clip.num_frames, int(frames)
    if clip.tracks is not None:
        keypoints, scores = clip.tracks
        clip.tracks = (
            np.pad(keypoints, ((0, 0), (0, more), (0, 0), (0, 0)), constant_values=np.nan),
            np.pad(scores, ((0, 0), (0, more), (0, 0))),
        )


def stamp(paths: Iterator[Path], *settings: Any) -> str:
    """16 hex digits that change with options, and with names, lengths or times of change of files."""
    hasher = blake3(json.dumps([VERSION, *settings], sort_keys=True, default=str).encode())
    for path in paths:
        state = path.stat()
        hasher.update(f"{path.absolute()}\0{state.st_size}\0{state.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()[:16]
