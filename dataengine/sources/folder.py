"""Any folder of videos, with labels from one CSV if there is one."""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dataengine.core.component import Source
from dataengine.core.counting import counted
from dataengine.core.errors import MediaError, SourceError
from dataengine.core.types import Clip
from dataengine.media.probe import probe
from dataengine.sources import ids, tables
from dataengine.sources.label_rows import LabelRows, find_table
from dataengine.sources.listing import Listing, list_files

_SLIVER = 0.5
"""Seconds: a rest shorter than this is no window of its own, since headers often round a duration up."""

_LONGEST = 48 * 3600.0
"""Seconds: a header that claims more is taken for damaged, as one that says nothing."""


@dataclass(frozen=True)
class Folder(Source):
    """Every video under a folder, at any depth.

    `labels.csv` at the root says more about files; several rows of one file are several spans. A file that a row
    names comes in as the row says or not at all, even where the row is wrong.
    Without a span a video longer than `max_seconds` is cut into windows.

    Attributes:
        labels: another CSV in place of labels.csv, relative to the root or to the working directory.
        max_seconds: longest window, seconds.
        split: of clips that no row gives one.
        licence, consent: of clips that no row gives one.
    """

    own_ids: ClassVar[bool] = True
    name: str = "folder"
    labels: str | None = None
    max_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 60.0
    split: Literal["train", "val", "test"] = "train"
    licence: str | None = None
    consent: str | None = None

    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield the clips of labelled files in the order of the rows, then those of all other files in order of path.

        Raises:
            SourceError: `root` is no folder or holds no video; the CSV of labels is missing or has no column `file`.
        """
        listing, rows = self._read(root)
        if not listing.media and not listing.refused and rows is None:
            raise SourceError(
                f"{self.name}: {root} holds no video file and no labels.csv; give a folder that holds videos"
            )
        seen: dict[str, Clip] = {}
        labelled: dict[str, str] = {}
        used: set[str] = set()
        for line, fields in rows or ():
            assert rows is not None
            shown = rows.table.name
            found = rows.contradictions.get(line) or self._row(fields, rows)
            for file in _named(fields, rows):
                labelled.setdefault(file, f"{shown} line {line}")
            if isinstance(found, str):
                yield ids.refused_row(self.name, shown, line, found)
                continue
            for clip in found:
                used.add(clip.media)
                if clip.reason is not None:
                    clip = replace(clip, detail=f"{shown} line {line}: {clip.detail}")
                before = seen.setdefault(clip.clip_id, clip)
                if before is clip:
                    yield clip
                elif before != clip:
                    detail = f"{clip.clip_id} is there with other facts (label {before.label!r}, here {clip.label!r})"
                    yield ids.refused_row(self.name, shown, line, detail, "duplicate_id", clip.video_id)
        for path in sorted(labelled.keys() - used):
            detail = f"{labelled[path]} names it or may mean it, and no row that names it can be used"
            yield self._clip(path, "", 0.0, 0.0, None, {}, reason="bad_row", detail=detail)
        for path in sorted(listing.paths()):
            if path not in labelled:
                yield from self._windows(path, root / path, {})
        for path, why in sorted((path, why) for path, why in listing.refused.items() if path not in labelled):
            yield self._clip(path, "", 0.0, 0.0, None, {}, reason="not_a_file", detail=why)

    def remarks(self, root: Path) -> Iterator[str]:
        """How many rows cannot be used, and how many files are passed over, since they are no videos."""
        listing, rows = self._read(root)
        named: set[str] = set()
        useless = []
        for line, fields in rows or ():
            assert rows is not None
            named.update(_named(fields, rows))
            if isinstance(fields, str) or line in rows.contradictions or len(rows.find(fields["file"])) != 1:
                useless.append(line)
        if rows and useless:
            alone = sum(1 for path in listing.paths() if path not in named)
            yield (
                f"{self.name}: {counted(len(useless), 'row')} of {rows.table.name} cannot be used (the first in line "
                f"{useless[0]}; after the build `audit OUT rejects` tells why); {counted(alone, 'video')} that no row "
                f"names {'comes' if alone == 1 else 'come'} in without a label"
            )
        others = sorted(path for path in listing.others if path not in named)
        if others:
            endings = Counter(posixpath.splitext(path)[1].lower() or "no ending" for path in others)
            shown = ", ".join(f"{number} {ending}" for ending, number in endings.most_common(4))
            first = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            count = counted(len(others), "file")
            yield f"{self.name}: passed over, since they are no videos: {count} ({shown}): {first}"

    def _read(self, root: Path) -> tuple[Listing, LabelRows | None]:
        listing = list_files(root, others=True)
        try:
            table = find_table(root, self.labels)
            return listing, LabelRows.read(table, listing) if table else None
        except SourceError as error:
            raise SourceError(f"{self.name}: {error}") from error

    def _row(self, fields: dict[str, str] | str, rows: LabelRows) -> list[Clip] | str:
        """The clips of one row, or what is wrong with it."""
        if isinstance(fields, str):
            return fields
        given, listing = fields["file"], rows.listing
        if not given:
            return "the column file is empty"
        found = rows.find(given)
        if len(found) > 1:
            shown = f"{found[0]}, {found[1]}, ..."
            return f"{given!r} may mean {len(found)} files ({shown}): give the path from the folder"
        media = found[0] if found else ""
        why = listing.refused.get(media) or listing.others.get(media)
        if why is not None:
            return f"{given!r}: {why}"
        if media.endswith("/"):
            return f"{given!r} is a folder; a row names one video file"
        try:
            facts: dict[str, Any] = {key: fields.get(key) or None for key in ("label", "licence", "consent", "subject")}
            own = rows.splits.get(media, self.split)
            facts["split"] = ids.split_named(fields["split"]) if fields.get("split") else own
            start, end = (ids.seconds(fields[key]) if fields.get(key) else None for key in ("start", "end"))
            if end is not None and end <= (start or 0.0):
                return f"the end {end:g} s is not after the start {start or 0.0:g} s"
        except ValueError as error:
            return str(error)
        if not media:
            path = posixpath.normpath(given.replace("\\", "/"))
            why_not = {"reason": "media_missing", "detail": rows.why_missing(given)}
            return [self._clip(path, "", start or 0.0, end or 0.0, None, facts, **why_not)]
        if start is None and end is None:
            return list(self._windows(media, listing.root / media, facts))
        if end is None:
            # The end of the file is its span's end; only the id and the index want the number.
            last = _duration(listing.root / media)
            return [self._clip(media, media, start or 0.0, max(last or 0.0, start or 0.0), (start or 0.0, None), facts)]
        return [self._clip(media, media, start or 0.0, end, (start or 0.0, end), facts)]

    def _windows(self, media: str, file: Path, facts: dict[str, Any]) -> Iterator[Clip]:
        """The whole file, or equal steps of `max_seconds` of it; the last one runs to the last frame."""
        duration = _duration(file)
        count = 1 if duration is None else max(1, math.ceil((duration - _SLIVER) / self.max_seconds))
        for number in range(count):
            start, last = number * self.max_seconds, number == count - 1
            end = (duration or 0.0) if last else start + self.max_seconds
            span = None if count == 1 else (start, None if last else end)
            yield self._clip(media, media, start, end, span, facts)

    def _clip(
        self,
        path: str,
        media: str,
        start: float,
        end: float,
        span: tuple[float, float | None] | None,
        facts: dict[str, Any],
        **more: str,
    ) -> Clip:
        stem = posixpath.splitext(path)[0]
        video = ids.slug(stem, always_hash=True, hashed=path)
        facts = {"split": self.split} | facts
        facts["licence"], facts["consent"] = facts.get("licence") or self.licence, facts.get("consent") or self.consent
        return Clip(
            clip_id=ids.clip_id(self.name, video, start, end, milliseconds=True),
            source=self.name,
            video_id=video,
            media=media,
            start=start,
            end=end or None,
            span_start=span[0] if span else None,
            span_end=span[1] if span else None,
            **facts,
            **more,
        )


def _named(fields: dict[str, str] | str, rows: LabelRows) -> list[str]:
    """The files that a row names, even a wrong one: they must not come in by themselves, with no label or in another
    split."""
    given = (fields.values if isinstance(fields, tables.BadLine) else ()) if isinstance(fields, str) else ()
    if not isinstance(fields, str) and fields["file"]:
        found = rows.find(fields["file"])
        return found or rows.named_by(fields["file"])
    return sorted({file for value in given for file in rows.named_by(value)})


def _duration(path: Path) -> float | None:
    """Seconds of a video; None for a file that does not state them or cannot be opened, which probe reports."""
    try:
        duration = probe(path).duration
    except MediaError:
        return None
    return duration if duration is not None and duration <= _LONGEST else None
