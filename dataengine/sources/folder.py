"""Any folder of videos, with labels from one CSV if there is one."""

from __future__ import annotations

import difflib
import math
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dataengine.core.component import Source
from dataengine.core.errors import MediaError, SourceError
from dataengine.core.types import Clip
from dataengine.media.probe import probe
from dataengine.sources import ids, tables
from dataengine.sources.file_names import FileNames
from dataengine.sources.listing import Listing, list_files

COLUMNS = ("file", "label", "start", "end", "split", "licence", "consent", "subject")
"""Columns of labels.csv; all but `file` may be absent or empty."""

_SLIVER = 0.5
"""Seconds: a rest shorter than this is no window of its own, since headers often round a duration up."""

_LONGEST = 48 * 3600.0
"""Seconds: a header that claims more is taken for damaged, as one that says nothing."""


@dataclass(frozen=True)
class Folder(Source):
    """Every video under a folder, at any depth.

    `labels.csv` at the root says more about files; several rows of one file are several spans.
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
        listing = list_files(root)
        table = self._table(root)
        if not listing.media and not listing.refused and table is None:
            raise SourceError(
                f"{self.name}: {root} holds no video file and no labels.csv; give a folder that holds videos"
            )
        seen: dict[str, Clip] = {}
        labelled: set[str] = set()
        used: set[str] = set()
        names = FileNames([*listing.paths(), *listing.refused] if table else [])
        for line, fields in tables.rows(table) if table else ():
            shown = table.name if table else ""
            found = self._row(fields, listing, names, labelled)
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
        for path in sorted(labelled - used):
            detail = "a row names it, and no row that names it can be used"
            yield self._clip(path, "", 0.0, 0.0, None, {}, reason="bad_row", detail=detail)
        for path in sorted(listing.paths()):
            if path not in labelled:
                yield from self._windows(path, root / path, {})
        for path, why in sorted((path, why) for path, why in listing.refused.items() if path not in labelled):
            yield self._clip(path, "", 0.0, 0.0, None, {}, reason="not_a_file", detail=why)

    def _table(self, root: Path) -> Path | None:
        """The CSV of labels, its header checked."""
        if self.labels is None:
            path = root / "labels.csv"
            if not path.is_file():
                return None
        else:
            tried = [root / self.labels, Path(self.labels)]
            found = next((path for path in tried if path.is_file()), None)
            if found is None:
                raise SourceError(
                    f"{self.name}: labels = {self.labels!r} is a file neither in {root} nor in the working directory"
                )
            path = found
        names = tables.columns(path)
        if "file" not in names:
            raise SourceError(
                f"{self.name}: {path} {'has the columns ' + ', '.join(names) if names else 'has no header'}; "
                f"want {', '.join(COLUMNS)}, at least file"
            )
        for name in set(names) - set(COLUMNS):
            near = difflib.get_close_matches(name.lower(), set(COLUMNS) - set(names), n=1, cutoff=0.75)
            if near:
                raise SourceError(
                    f"{self.name}: {path} has a column {name!r} (did you mean {near[0]!r}?); "
                    f"allowed: {', '.join(COLUMNS)}"
                )
        return path

    def _row(
        self, fields: dict[str, str] | str, listing: Listing, names: FileNames, labelled: set[str]
    ) -> list[Clip] | str:
        """The clips of one row, or what is wrong with it. Files that a row names, even a wrong one, go to `labelled`:
        they must not come in by themselves, with no label or in another split."""
        if isinstance(fields, str):
            given = fields.values if isinstance(fields, tables.BadLine) else ()
            labelled.update(file for value in given for file in names.may_mean(value))
            return fields
        if not fields["file"]:
            return "the column file is empty"
        found = names.find(fields["file"])
        labelled.update(found)
        if len(found) > 1:
            shown = f"{found[0]}, {found[1]}, ..."
            return f"{fields['file']!r} may mean {len(found)} files ({shown}): give the path from the folder"
        media = found[0] if found else ""
        if media in listing.refused:
            return f"{fields['file']!r}: {listing.refused[media]}"
        try:
            facts: dict[str, Any] = {key: fields.get(key) or None for key in ("label", "licence", "consent", "subject")}
            facts["split"] = ids.split_named(fields["split"]) if fields.get("split") else self.split
            start, end = (ids.seconds(fields[key]) if fields.get(key) else None for key in ("start", "end"))
            if end is not None and end <= (start or 0.0):
                return f"the end {end:g} s is not after the start {start or 0.0:g} s"
        except ValueError as error:
            return str(error)
        if not media:
            nearest, path = names.nearest(fields["file"]), posixpath.normpath(fields["file"].replace("\\", "/"))
            hint = "" if nearest is None else f"; the nearest name is {nearest!r}"
            why = {"reason": "media_missing", "detail": f"there is no file {fields['file']!r} in the folder{hint}"}
            return [self._clip(path, "", start or 0.0, end or 0.0, None, facts, **why)]
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


def _duration(path: Path) -> float | None:
    """Seconds of a video; None for a file that does not state them or cannot be opened, which probe reports."""
    try:
        duration = probe(path).duration
    except MediaError:
        return None
    return duration if duration is not None and duration <= _LONGEST else None
