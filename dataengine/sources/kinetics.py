"""Kinetics-400, -600, -700 and -700-2020 as published: official CSV or JSON lists, files named by YouTube id and times.

Layouts read: the lists of https://github.com/google-deepmind (kinetics*.tar.gz: train/validate/test
as .csv and .json) and the media trees of the CVDF mirror (https://github.com/cvdfoundation/kinetics-dataset).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dataengine.core.component import Source
from dataengine.core.errors import SourceError
from dataengine.core.types import Clip
from dataengine.sources import ids, tables
from dataengine.sources.listing import Listing, list_files

LICENCE = "annotations CC BY 4.0 (Google DeepMind); video rights with the uploader"

_NEEDED = {"youtube_id", "time_start", "time_end"}
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_FILE_STEM = re.compile(r"([A-Za-z0-9_-]{11})(?:_(\d{1,9})_(\d{1,9}))?")
_EDITION = re.compile(r"(?<![a-z])k(?:inetics)?[-_ ]?(400|600|700(?:[-_ ]?2020)?)(?!\d)")


class _Row(NamedTuple):
    video: str
    start: float
    end: float
    split: str
    label: str | None


@dataclass(frozen=True)
class Kinetics(Source):
    """One edition of Kinetics.

    Every CSV with the official columns and every official JSON under the root is an annotation
    file; where several editions lie together, those whose path names another one are passed over. Media are
    `<id>_<start:06d>_<end:06d>.<ext>` at any depth, else the whole video `<id>.<ext>`, of which
    the annotated span is taken. Without annotation files, class folders give the labels.
    """

    name: str = "kinetics700"

    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield a clip for each annotated row, file by file (labelled lists first), rows in their order.

        A row that another file repeats is dropped; one that contradicts it is a `duplicate_id`.

        Raises:
            SourceError: `root` is not a folder, or holds neither annotations nor media of this source.
        """
        listing = list_files(root)
        files = self._annotations(listing)
        if not files and not listing.media:
            raise SourceError(
                f"{self.name}: {root} holds no CSV with the columns label, youtube_id, time_start, time_end, split, "
                f"no official JSON and no video file; give the folder with the official lists and the videos"
            )
        seen: dict[str, tuple[str | None, str]] = {}
        for clip, file, line in self._annotated(listing, files) if files else self._in_class_folders(listing):
            said = (clip.label, clip.split)
            before = seen.get(clip.clip_id)
            if before is None:
                seen[clip.clip_id] = said
                yield clip
            elif before != said and (clip.label is not None or before[1] != clip.split):
                detail = (
                    f"{clip.clip_id} is already there with label {before[0]!r} in {before[1]}, "
                    f"here {clip.label!r} in {clip.split}"
                )
                yield ids.refused_row(self.name, file, line, detail, "duplicate_id", clip.video_id)

    def _annotations(self, listing: Listing) -> list[str]:
        """Annotation files: labelled CSVs, JSONs, then unlabelled CSVs, each kind in order of path."""
        ranked: list[tuple[int, str]] = []
        for file in listing.tables:
            if file.lower().endswith(".json"):
                stem = file[: -len(".json")]
                beside = any(f"{stem}{end}" == f for end in (".csv", ".csv.gz") for _, f in ranked)
                if not beside and _looks_official(tables.head(listing.root / file)):
                    ranked.append((1, file))
            else:
                names = set(tables.columns(listing.root / file))
                if names >= _NEEDED:
                    ranked.append((0 if "label" in names else 2, file))
        editions = {file: _edition(file) for _, file in ranked}
        others = sorted({edition for edition in editions.values() if edition} - {self.name.removeprefix("kinetics")})
        if len(others) < len(set(editions.values())):
            ranked = [(rank, file) for rank, file in ranked if editions[file] not in others]
        elif len(others) > 1:
            found = ", ".join(f"kinetics{edition}" for edition in others)
            raise SourceError(
                f"{self.name}: {listing.root} holds lists of other editions only ({found}); "
                f"give the folder of {self.name}"
            )
        return [file for _, file in sorted(ranked)]

    def _annotated(self, listing: Listing, files: list[str]) -> Iterator[tuple[Clip, str, int | str]]:
        refused = {path.rsplit("/", 1)[-1].rsplit(".", 1)[0]: why for path, why in listing.refused.items()}
        for file in files:
            read = _json_rows if file.lower().endswith(".json") else _csv_rows
            for line, row in read(listing.root, file):
                clip = (
                    ids.refused_row(self.name, file, line, row)
                    if isinstance(row, str)
                    else self._clip(row, listing, refused)
                )
                yield clip, file, line

    def _in_class_folders(self, listing: Listing) -> Iterator[tuple[Clip, str, int | str]]:
        for number, path in enumerate(sorted(listing.paths()), 1):
            folder, _, name = path.rpartition("/")
            named = _FILE_STEM.fullmatch(name.rsplit(".", 1)[0])
            if named is None:
                clip = ids.refused_row(self.name, path, number, "the file name is not <youtube_id>_<start>_<end>")
            else:
                word = folder.rsplit("/", 1)[-1]
                label = None if word.lower() in ids.SPLIT_WORDS else word.replace("_", " ") or None
                start, end = float(named[2] or 0), float(named[3] or 0)
                row = _Row(named[1], start, end, ids.split_in_path(folder) or "train", label)
                clip = replace(self._clip(row, listing, {}), media=path, span_start=None, span_end=None)
                if named[2] is None:
                    clip = replace(clip, start=None, end=None)
            yield clip, path, number

    def _clip(self, row: _Row, listing: Listing, refused: dict[str, str]) -> Clip:
        whole = row.start.is_integer() and row.end.is_integer()
        stems = [row.video]
        if whole:
            stems = [
                f"{row.video}_{row.start:06.0f}_{row.end:06.0f}",
                f"{row.video}_{row.start:.0f}_{row.end:.0f}",
                row.video,
            ]
        stem = next((stem for stem in stems if stem in listing.media), None)
        why = None if stem else next((refused[stem] for stem in stems if stem in refused), None)
        locations = listing.media[stem] if stem else ()
        # Replacements for broken files are published in a folder of that name, beside the broken ones.
        location = next((p for p in locations if "replacement" in p.folder), locations[0] if locations else None)
        return Clip(
            clip_id=ids.clip_id(self.name, row.video, row.start, row.end, milliseconds=not whole),
            source=self.name,
            video_id=row.video,
            media=f"{location.folder}{stem}{location.extension}" if location else "",
            start=row.start,
            end=row.end,
            span_start=row.start if stem == row.video else None,
            span_end=row.end if stem == row.video else None,
            split=row.split,
            label=row.label,
            licence=LICENCE,
            url=f"https://www.youtube.com/watch?v={row.video}",
            reason="not_a_file" if why else None,
            detail=why,
            file=f"{stems[0]}.mp4",
        )


def _edition(path: str) -> str | None:
    """The edition that a path names: '400', '600', '700' or '700_2020'."""
    found = _EDITION.search(path.lower())
    return None if found is None else "700_2020" if "2020" in found[1] else found[1]


def _looks_official(text: str) -> bool:
    return (
        text.lstrip().startswith("{") and '"subset"' in text and re.search(r'"annotations"\s*:\s*\{', text) is not None
    )


def _row(video: str, start: object, end: object, split: str, label: str | None) -> _Row | str:
    """The row, or what is wrong with it."""
    if _YOUTUBE_ID.fullmatch(video) is None:
        return f"{video[:40]!r} is not a YouTube id (11 letters, digits, - or _)"
    try:
        first, last = ids.seconds(start), ids.seconds(end)
        if last <= first:
            raise ValueError(f"the end {last:g} s is not after the start {first:g} s")
        return _Row(video, first, last, ids.split_named(split), sys.intern(label) if label else None)
    except ValueError as error:
        return str(error)


def _csv_rows(root: Path, file: str) -> Iterator[tuple[int | str, _Row | str]]:
    split = ids.split_in_path(file) or "train"
    for line, fields in tables.rows(root / file):
        if isinstance(fields, str):
            yield line, fields
        else:
            yield (
                line,
                _row(
                    fields["youtube_id"],
                    fields["time_start"],
                    fields["time_end"],
                    fields.get("split") or split,
                    fields.get("label"),
                ),
            )


def _json_rows(root: Path, file: str) -> Iterator[tuple[int | str, _Row | str]]:
    number = 0
    try:
        for number, (video, entry) in enumerate(tables.entries(root / file), 1):
            try:
                said = entry["annotations"]
                start, end = said["segment"]
                yield f"entry {number}", _row(video, start, end, str(entry["subset"]), said.get("label"))
            except (KeyError, TypeError, ValueError, AttributeError):
                yield f"entry {number}", f"{video[:40]!r} has no subset and annotations with a segment of two times"
    except ValueError as error:
        yield f"entry {number + 1}", f"the file cannot be read from here on: {error}"
