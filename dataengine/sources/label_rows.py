"""The rows of a folder's labels.csv, each with the files it means; and rows that contradict each other."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dataengine.core.errors import SourceError
from dataengine.media.kinds import kind_of_file
from dataengine.sources import ids, tables
from dataengine.sources.file_names import FileNames, plain
from dataengine.sources.listing import Listing

COLUMNS = ("file", "label", "start", "end", "split", "licence", "consent", "subject")
"""Columns of labels.csv; all but `file` may be absent or empty."""


def find_table(root: Path, labels: str | None) -> Path | None:
    """The CSV of labels: the given one, else labels.csv at the root, in any case; None where there is none.

    Raises:
        SourceError: it is missing, or no file.
    """
    if labels is not None:
        tried = [root / labels, Path(labels)]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise SourceError(f"labels = {labels!r} is a file neither in {root} nor in the working directory")
        return found
    named = sorted(path for path in root.iterdir() if path.name.lower() == "labels.csv")
    exact = [path for path in named if path.name == "labels.csv"] or named
    if len(exact) > 1:
        raise SourceError(f"{root} holds {' and '.join(path.name for path in exact)}; keep one of them")
    if exact and not exact[0].is_file():
        raise SourceError(f"{exact[0]} is no file that can be read (a folder, a pipe, or a link that leads nowhere)")
    return exact[0] if exact else None


def header(path: Path) -> tuple[str, ...]:
    """The columns of a CSV of labels, ours in lower case.

    Raises:
        SourceError: it cannot be read, lacks the column `file`, has one of ours twice, or misspells one.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    given = tables.columns(path)
    names = tuple(name.lower() if name.lower() in COLUMNS else name for name in given)
    if "file" not in names:
        what = kind_of_file(path)
        shown = f"has the columns {', '.join(given)[:200]}" if given else "has no header"
        if what is not None and "text" not in what:
            shown = f"is {what}, not a CSV"
        elif tables.columns(path) and any("\0" in name or "\ufffd" in name for name in given):
            shown = "is not a text in UTF-8 or UTF-16; save it as CSV UTF-8"
        raise SourceError(f"{path} {shown}; want {', '.join(COLUMNS)}, at least file")
    for name in set(names):
        if name in COLUMNS and names.count(name) > 1:
            raise SourceError(f"{path} has the column {name!r} more than once; keep one")
    for name in set(names) - set(COLUMNS):
        near = difflib.get_close_matches(name.lower(), set(COLUMNS) - set(names), n=1, cutoff=0.75)
        if near:
            raise SourceError(
                f"{path} has a column {name!r} (did you mean {near[0]!r}?); allowed: {', '.join(COLUMNS)}"
            )
    return names


class _Said(NamedTuple):
    """What a row says of its file."""

    line: int
    start: float
    end: float
    split: str | None
    label: str
    given: str

    def contradicts(self, other: _Said) -> bool:
        """Whether two rows of one file cannot both be true of the same seconds.

        A row that gives no split says nothing of it. Two labels of one span are taken for one clip, which gets the
        first, where the file is written in one way; where it is written in two ways, two files may be meant.
        """
        if not (self.start < other.end and other.start < self.end):
            return False
        splits = self.split is not None and other.split is not None and self.split != other.split
        same = (self.start, self.end) == (other.start, other.end)
        return splits or (same and self.given != other.given and self.label != other.label)


@dataclass(frozen=True)
class LabelRows:
    """A CSV of labels over the files of a listing.

    Attributes:
        table: its path.
        columns: its header.
        media, others: the names of the media, and of other files.
        splits: file -> the split that its rows give it, where they agree.
        contradictions: line -> what is wrong, of rows that contradict another row of the same file.
    """

    table: Path
    columns: tuple[str, ...]
    listing: Listing
    media: FileNames
    others: FileNames
    splits: dict[str, str]
    contradictions: dict[int, str]

    @classmethod
    def read(cls, table: Path, listing: Listing) -> LabelRows:
        """Read a table once, or twice where some of its rows disagree.

        Raises:
            SourceError: the table cannot be used, or breaks off.
        """
        roots = (str(listing.root.absolute()), str(listing.root.resolve()))
        media = FileNames([*listing.paths(), *listing.refused], listing.folders, roots)
        others = FileNames([*listing.others, *listing.tables, *listing.folders], listing.folders, roots)
        rows = cls(table, header(table), listing, media, others, {}, {})
        rows._compare()
        return rows

    def __iter__(self) -> Iterator[tuple[int, dict[str, str] | str]]:
        """The rows as `tables.rows` gives them.

        Raises:
            SourceError: the table breaks off: what the rest says of its files cannot be known.
        """
        for line, fields in tables.rows(self.table, self.columns):
            if isinstance(fields, tables.BadLine) and fields.ends:
                raise SourceError(f"{self.table} line {line}: {fields}; mend it, for its rows say what files are")
            yield line, fields

    def find(self, given: str) -> list[str]:
        """The files that a row may mean: media first, then files of any other kind, and folders."""
        return self.media.find(given) or self.others.find(given)

    def named_by(self, given: str) -> list[str]:
        """Media that must not come in by themselves, since a row that cannot be used may mean them."""
        return self.media.may_mean(given)

    def why_missing(self, given: str) -> str:
        """Why a row finds no file, with the nearest name."""
        parts = plain(given).split("/")
        for end in range(1, len(parts)):
            above = {plain(path): path for path in self.listing.refused}.get("/".join(parts[:end]))
            if above is not None:
                return f"{given!r} lies in {above!r}: {self.listing.refused[above]}"
        nearest = self.media.nearest(given)
        hint = "" if nearest is None else f"; the nearest name is {nearest!r}"
        return f"there is no file {given!r} in the folder{hint}"

    def _said(self) -> Iterator[tuple[str, _Said]]:
        """(file, what the row says of it) of every row that can be used."""
        for line, fields in self:
            if isinstance(fields, str) or not fields["file"]:
                continue
            found = self.find(fields["file"])
            if len(found) != 1:
                continue
            try:
                split = ids.split_named(fields["split"]) if fields.get("split") else None
                start = ids.seconds(fields["start"]) if fields.get("start") else 0.0
                end = ids.seconds(fields["end"]) if fields.get("end") else math.inf
            except ValueError:
                continue
            yield found[0], _Said(line, start, end, split, fields.get("label", ""), plain(fields["file"]))

    def _compare(self) -> None:
        """Find the split of each file, and the rows that contradict each other. Files with rows that say all the same
        cost one entry each."""
        first: dict[str, _Said] = {}
        mixed: set[str] = set()
        for file, said in self._said():
            before = first.setdefault(file, said)
            if said.split is not None and before.split is None:
                first[file] = before._replace(split=said.split)
            elif said.split not in (None, before.split):
                mixed.add(file)
            if said.label != before.label and said.given != before.given:
                mixed.add(file)
        self.splits.update({file: said.split for file, said in first.items() if said.split and file not in mixed})
        if not mixed:
            return
        rows: dict[str, list[_Said]] = {file: [] for file in mixed}
        for file, said in self._said():
            if file in mixed:
                rows[file].append(said)
        for file, together in rows.items():
            splits = {said.split for said in together if said.split}
            if len(splits) == 1:
                self.splits[file] = splits.pop()
            for said in together:
                other = next((one for one in together if said.contradicts(one)), None)
                if other is not None:
                    self.contradictions[said.line] = (
                        f"says other things of {file!r} than line {other.line} (label {said.label!r} in "
                        f"{said.split or 'no split'}, there {other.label!r} in {other.split or 'no split'}): mend one"
                    )
