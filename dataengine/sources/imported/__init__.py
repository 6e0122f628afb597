"""Source `imported`: poses that another program saved, without videos. The command `dataengine import` uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow.parquet as pq
from pydantic import Field

from dataengine.core.component import Source
from dataengine.core.errors import SourceError
from dataengine.core.skeletons import skeleton
from dataengine.core.types import Clip
from dataengine.sources import tables
from dataengine.sources.imported import spool
from dataengine.sources.imported.formats import Format, open_reader
from dataengine.sources.imported.saved_clip import files_below

TABLES = ("labels.csv", "clips.csv")
"""The tables of facts that are read where they lie in the folder of saved poses: one's own, and that of an export."""
COLUMNS = ("name", "label", "split", "subject", "licence", "consent", "fps", "width", "height")
"""Columns of the table; all but `name` (or `file`) may be absent or empty."""


@dataclass(frozen=True)
class Imported(Source):
    """Saved poses of people in place of videos.

    Attributes:
        file: the file or folder that holds them.
        format: of the files.
        fps: frames per second of clips whose frame rate neither file nor table tells.
        size: width and height of pictures whose size neither file nor table tells.
        layout: skeleton of the saved joints; '' by their number.
        scale: what coordinates are: pixels, or relative to the picture from 0 to 1 (unit), from -1 to 1 (signed) or
            from -0.5 to 0.5 (centred), or in UNIK's unit (screen). auto tells the first three apart, clip by clip, and
            pixels from UNIK's unit in its arrays.
        splits: which of several sets of splits of a file is taken, such as xsub; '' the first.
        split: of clips that neither file nor table gives one.
        classes: names of classes by number.
        table: path of a CSV of facts by `name` of a clip: label, split, subject, licence, consent, fps, width, height.
            By default labels.csv in the folder, or clips.csv as `dataengine export` writes it.
    """

    makes_media: ClassVar[bool] = True
    brings_poses: ClassVar[bool] = True

    name: str = "imported"
    file: str = ""
    format: Format = "pyskl"
    fps: Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)] = 30.0
    size: tuple[Annotated[int, Field(ge=1, le=1 << 19)], Annotated[int, Field(ge=1, le=1 << 19)]] | None = None
    layout: str = ""
    scale: Literal["auto", "pixels", "unit", "signed", "centred", "screen"] = "auto"
    splits: str = ""
    split: Literal["train", "val", "test"] = "train"
    classes: tuple[str, ...] = ()
    table: str = ""

    def __post_init__(self) -> None:
        if self.layout:
            skeleton(self.layout)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes

    def prepare(self, cache: Path) -> Path:
        """Bring the saved poses into one form, in a folder of `cache`, unless they are there.

        Raises:
            SourceError: there are none, they are of another format, or none can be taken.
        """
        return self.spool(cache, lambda count: None)

    def spool(self, cache: Path, progress: Callable[[int], None]) -> Path:
        """As `prepare`; `progress` gets the number of further clips."""
        if not self.file:
            raise SourceError("[sources.imported] file is not set: give what `dataengine import PATH` is to read")
        path = Path(self.file).expanduser()
        if not path.exists():
            raise SourceError(f"{path}: there is no such file or folder; give what another program saved")
        table = self._table(path)
        settings = spool.Settings(
            self.name,
            self.format,
            self.fps,
            self.size,
            self.layout,
            self.scale,
            self.split,
            {} if table is None else _facts(table),
        )
        options = [self.format, self.fps, self.size, self.layout, self.scale, self.splits, self.split]
        stamp = spool.stamp(_files(path, table), self.name, *options)
        folder = cache / f"imported-{stamp}"
        try:
            spool.make(folder, lambda: open_reader(self.format, path, self.splits), settings, progress)
        except SourceError as error:
            raise SourceError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
        return folder

    def facts(self, root: Path) -> dict[str, Any]:
        """What is known of the saved poses as a whole: layout, classes, notes and counts."""
        found: dict[str, Any] = json.loads((root / "facts.json").read_text(encoding="utf-8"))
        return found

    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield the clips in the order of the files; what cannot be taken has a reason.

        Raises:
            SourceError: `root` is none that `prepare` made.
        """
        if not (root / "facts.json").is_file():
            raise SourceError(f"{self.name}: {root} holds no saved poses of `dataengine import`")
        with pq.ParquetFile(root / "clips.parquet") as file:
            for batch in file.iter_batches(batch_size=spool.ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield self._clip(row)

    def _clip(self, row: dict[str, Any]) -> Clip:
        number, label = row["number"], row["label"]
        if label is None and number >= 0:
            label = self.classes[number] if number < len(self.classes) else str(number)
        return Clip(
            clip_id=row["clip_id"],
            source=self.name,
            video_id=row["video_id"],
            media=row["media"],
            start=0.0 if row["end"] is not None else None,
            end=row["end"],
            split=row["split"],
            label=label,
            licence=row["licence"],
            consent=row["consent"],
            subject=row["subject"],
            reason=row["reason"],
            detail=row["detail"],
            file=row["name"],
        )

    def _table(self, path: Path) -> Path | None:
        if not self.table:
            own = [path / name for name in TABLES] if path.is_dir() else []
            return next((table for table in own if table.is_file()), None)
        found = Path(self.table).expanduser()
        if not found.is_file():
            raise SourceError(f"[sources.imported] table = {self.table!r} is no file; give a CSV with a column name")
        return found


def _files(path: Path, table: Path | None) -> Iterator[Path]:
    """Every file that the saved poses are read from, in order."""
    if path.is_file():
        yield path
    else:
        yield from (file for file in files_below(path) if file.is_file())
    if table is not None and path not in table.parents:
        yield table


def _facts(table: Path) -> dict[str, dict[str, str]]:
    """Rows of the table by name of a clip.

    Raises:
        SourceError: it has no column name, or a row cannot be read; the message names the line.
    """
    names = tables.columns(table)
    key = next((key for key in ("name", "file", "clip_id") if key in names), None)
    if key is None:
        raise SourceError(
            f"{table} has the columns {', '.join(names) or 'none'}; want {', '.join(COLUMNS)}, at least name"
        )
    found: dict[str, dict[str, str]] = {}
    for line, fields in tables.rows(table):
        if isinstance(fields, str):
            raise SourceError(f"{table} line {line}: {fields}; mend it or take it out")
        if fields[key] in found and found[fields[key]] != fields:
            raise SourceError(f"{table} line {line}: {fields[key]!r} stands in an earlier line with other facts")
        found[fields[key]] = fields
    return found
