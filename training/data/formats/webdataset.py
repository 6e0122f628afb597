"""Plain WebDataset shards, local or over a network: their tar headers are read once, samples then by place.

EntryReader are those of our datasets: KEY.keypoints.npy (M, T, V, C), KEY.scores.npy, KEY.json with label, label_id,
split, fps, width, height, skeleton, joints, and any others; KEY.cls holds a label's number where json has none. What
the headers say is kept in the cache folder and read from there as long as the shards stay as they are.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.class_numbers import class_number
from dataengine.core.errors import DatasetError, TrainingError, suggestion
from dataengine.core.skeletons import Skeleton
from dataengine.io.remote import file_state
from dataengine.io.storage import staged
from training.data.formats.base import Format, checked_ids, choose, digest, names_of
from training.data.formats.built import POSES, EntryReader, clips_of
from training.data.formats.joints import Layout, layout_of
from training.data.formats.ranges import Ranges, cache_folder, is_url
from training.data.types import Numbers, SkeletonSequence, remark

VERSION = 2
"""Raised when what is kept of the headers changes."""
TAR = 512
HEADER = 256
"""Bytes of an npy file that hold the shape of any array of a few axes."""
MOST = 1 << 31
"""A bound for numbers of classes while the samples are not counted yet."""
AHEAD = 1 << 20
"""Bytes of a remote shard that are read at a time while its headers are looked for."""
FACTS: dict[str, type[pl.DataType]] = {
    "label": pl.String,
    "label_id": pl.Int64,
    "split": pl.String,
    "source": pl.String,
    "source_label": pl.String,
    "text": pl.String,
    "fps": pl.String,
    "width": pl.Int64,
    "height": pl.Int64,
    "num_frames": pl.Int64,
    "skeleton": pl.String,
    "licence": pl.String,
}
"""Keys of KEY.json that a condition may use."""
MEMBER = re.compile(r"((?:.*/|)[^./][^.]*)[.]([^/]+)")
"""KEY.ENTRY: the key ends at the first dot of the file's own name (webdataset's convention)."""


def expand(pattern: str) -> list[str]:
    """The names of a pattern: {000..012} counts with leading zeros, {a,b} lists, '::' joins patterns.

    Raises:
        TrainingError: a brace is not closed or holds neither.
    """
    if "::" in pattern:
        return [name for part in pattern.split("::") for name in expand(part)]
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        if set(pattern) & {"{", "}"}:
            raise TrainingError(
                f"{pattern}: its braces do not close; write train-{{000000..000012}}.tar or {{train,val}}.tar"
            )
        return [pattern]
    inner = match.group(1)
    if counted := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        first, last = counted.groups()
        words = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        words = inner.split(",")
    if len(words) < 1 or (len(words) == 1 and not counted):
        raise TrainingError(f"{pattern}: {{{inner}}} names nothing; write {{000000..000012}} or {{train,val}}")
    return [name for word in words for name in expand(pattern[: match.start()] + word + pattern[match.end() :])]


class _Shard:
    """Bytes of one shard, remote ones read ahead."""

    def __init__(self, ranges: Ranges, number: int) -> None:
        self.name, self.size = ranges.files[number], ranges.sizes[number]
        self._ranges, self._number = ranges, number
        self._data, self._base = memoryview(b""), 0

    def read(self, start: int, size: int) -> bytes:
        if not self._base <= start <= start + size <= self._base + len(self._data):
            stop = max(start + size, min(start + AHEAD, self.size))
            ((self._data, self._base),) = self._ranges.pieces([self._number], [start], [stop])
        return bytes(self._data[start - self._base : start - self._base + size])


def _number(field: bytes) -> int:
    """A tar header's number: octal text, or binary where the first bit is set (GNU)."""
    return (
        int.from_bytes(field, "big") & ((1 << 95) - 1)
        if field[0] & 0x80
        else int(field.rstrip(b"\0 ").lstrip() or b"0", 8)
    )


def members(shard: _Shard) -> Iterator[tuple[str, int, int]]:
    """Path, data offset and size of every plain file of an archive (ustar, pax or GNU); links and folders are passed
    over.

    Raises:
        DatasetError: it is no archive, or ends before it should.
    """
    position, path, size_given = 0, "", -1
    while position + TAR <= shard.size:
        header = shard.read(position, TAR)
        if not any(header):
            return
        try:
            if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
                raise ValueError("a header's checksum does not hold")
            size, kind = _number(header[124:136]), header[156:157]
        except ValueError as error:
            raise DatasetError(f"{shard.name}: torn or damaged at byte {position}: {error}") from None
        size = size_given if size_given >= 0 and kind not in b"xgL" else size
        start, position = position + TAR, position + TAR + size + -size % TAR
        if position > shard.size:
            raise DatasetError(
                f"{shard.name}: torn: a member ends at byte {position}, the file at {shard.size}; copy it again"
            )
        if kind == b"x":
            records = dict(
                re.findall(r"\d+ (path|size)=([^\n]*)\n", shard.read(start, size).decode("utf-8", "surrogateescape"))
            )
            path, size_given = records.get("path", path), int(records.get("size", size_given))
        elif kind == b"L":
            path = shard.read(start, size).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind != b"g":
            front = (
                header[345:500].rstrip(b"\0").decode("utf-8", "surrogateescape")
                if header[257:263] == b"ustar\0"
                else ""
            )
            own = header[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")
            if kind in (b"0", b"\0", b"7"):
                yield path or (f"{front}/{own}" if front else own), start, size
            path, size_given = "", -1
    raise DatasetError(f"{shard.name}: torn: it ends at byte {shard.size} without the end of an archive; copy it again")


def _scan(ranges: Ranges, number: int) -> Iterator[dict[str, Any]]:
    """One row a sample of a shard: key, shard, facts of json, and offset:ENTRY, size:ENTRY of every entry."""
    shard = _Shard(ranges, number)
    named = ((match, offset, size) for path, offset, size in members(shard) if (match := MEMBER.fullmatch(path)))
    for key, group in itertools.groupby(named, key=lambda member: member[0].group(1)):
        row: dict[str, Any] = {"key": key, "shard": number}
        for match, offset, size in group:
            entry = match.group(2)
            if f"offset:{entry}" in row:
                raise DatasetError(f"{shard.name}: {key}.{entry} stands twice")
            row[f"offset:{entry}"], row[f"size:{entry}"] = offset, size
            try:
                if entry.removesuffix(".npy") in POSES:
                    row[f"shape:{entry}"] = _shape(shard.read(offset, min(size, HEADER)))
                elif entry == "json":
                    facts = json.loads(shard.read(offset, size))
                    _check_label(facts)
                    row |= {name: facts.get(name) for name in FACTS} | {
                        "joints": "\n".join(facts.get("joints") or ()) or None
                    }
                    row["fps"] = None if facts.get("fps") is None else str(facts["fps"])
                elif entry == "cls":
                    row.setdefault("label_id", class_number(int(shard.read(offset, size)), MOST))
            except (ValueError, TypeError, AttributeError) as error:
                raise DatasetError(f"{shard.name}: {key}.{entry} cannot be decoded: {error}") from None
        yield row


def _check_label(facts: dict[str, Any]) -> None:
    """Refuse a label that is neither text nor a number, and a label_id that is no number of a class.

    Raises:
        ValueError: saying which.
    """
    label = facts.get("label")
    if label is not None and not isinstance(label, str | int | float):
        raise ValueError(f"its label is a {type(label).__name__}; allowed: text")
    if facts.get("label_id") is not None:
        try:
            class_number(facts["label_id"], MOST)
        except ValueError as error:
            raise ValueError(f"its label_id is {error}") from None


def _shape(head: bytes) -> str | None:
    """The shape that the beginning of an npy file tells, as text; None where it tells none."""
    found = re.search(rb"'shape': \(([0-9, ]*)\)", head)
    return None if found is None else found.group(1).decode().replace(" ", "").strip(",")


def index(ranges: Ranges, tag: str, folder: Path) -> pl.DataFrame:
    """What the headers of the shards say, one row a sample, kept in `folder` under the shards' tag.

    Raises:
        DatasetError: a shard is torn, or two samples have one key.
    """
    path = folder / f"webdataset-{tag[:32]}.parquet"
    if path.is_file():
        return pl.read_parquet(path)
    rows = [row for number in range(len(ranges.files)) for row in _scan(ranges, number)]
    places: dict[str, Any] = {name: pl.Int64 for row in rows for name in row if name.startswith(("offset:", "size:"))}
    places |= {name: pl.String for row in rows for name in row if name.startswith("shape:")}
    schema: dict[str, Any] = {
        "key": pl.String,
        "shard": pl.Int64,
        **FACTS,
        "joints": pl.String,
        **dict(sorted(places.items())),
    }
    frame = pl.DataFrame(rows, schema=schema, strict=False)
    twice = frame.filter(pl.col("key").is_duplicated())
    if len(twice):
        raise DatasetError(f"{ranges.files[twice['shard'][1]]}: key {twice['key'][0]!r} stands in more than one place")
    with staged(path) as partial:
        frame.write_parquet(partial)
    return frame


class WebDataset(Format):
    """Samples of plain WebDataset shards.

    Args:
        shards: paths or urls of tar files, patterns such as train-{000000..000012}.tar among them.
        split, where: choose by the split in json, and by an SQL condition over `FACTS` and key.
        entries: what to read of each sample besides the pose; all but scores and poses become its features.
        pose: the entry that is the clip's keypoints.
        layout: the joints' layout, where json does not say it.
        labels: class names by label_id, where json does not say them.
        cache, cache_gb: where the index and pieces of remote shards are kept.

    Raises:
        TrainingError: nothing is chosen, or the layout is wrong.
        DatasetError: a shard is absent or torn, or there is no such entry.
    """

    default_entries = ("keypoints", "scores")

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A tar file, a pattern or a list of them, or a folder of tar files."""
        if "{" in path or "::" in path or path.endswith(".tar"):
            return True
        return not is_url(path) and Path(path).is_dir() and next(Path(path).glob("*.tar"), None) is not None

    @classmethod
    def location(cls, path: str) -> list[str]:
        """The shards of a path, sorted."""
        if not is_url(path) and Path(path).is_dir():
            return sorted(map(str, Path(path).glob("*.tar")))
        return [path]

    def __init__(
        self,
        shards: Iterable[str],
        split: str | None = None,
        where: str | None = None,
        entries: Sequence[str] = ("keypoints", "scores"),
        pose: str = "keypoints",
        layout: Layout = None,
        labels: Sequence[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        cache_gb: float = 20.0,
    ) -> None:
        files = [file for pattern in shards for file in expand(os.fspath(pattern))]
        if not files:
            raise TrainingError("no shards were given; name at least one tar file")
        if pose not in POSES:
            raise TrainingError(f"{files[0]}: pose={pose!r}; allowed: {', '.join(POSES)}")
        self.name = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        self._pose = pose
        states = [file_state(file) for file in files]
        tag = digest(VERSION, *(f"{file} {size} {state}" for file, (size, state) in zip(files, states)))
        ranges = Ranges(files, [size for size, _ in states], tag, cache, cache_gb)
        facts = index(ranges, tag, Path(cache) if cache else cache_folder())
        optional = {"scores"} if tuple(entries) == ("keypoints", "scores") else set()
        self._columns = self._stored(facts, (pose, *entries), optional)
        facts = self._with_somebody(facts)
        facts, self.labels = self._labelled(facts, labels)
        rows = choose(self.name, facts.select("key", *FACTS), split, where)
        facts = facts[rows]
        self.keys: Sequence[str] = facts["key"].to_list()
        self.label_ids: Numbers = facts["label_id"].fill_null(-1).to_numpy().astype(np.int64)
        self.columns = {name: facts[name].to_list() for name in FACTS}
        self._fps = np.array([float(Fraction(fps)) if fps else np.nan for fps in facts["fps"].to_list()])
        self._size = facts.select(pl.col("width", "height").fill_null(-1)).to_numpy().astype(np.int64)
        places = {
            entry: (
                name,
                facts[f"offset:{name}"].fill_null(-1).to_numpy(),
                facts[f"size:{name}"].fill_null(-1).to_numpy(),
            )
            for entry, name in self._columns.items()
        }
        self._entries = EntryReader(ranges, facts["shard"].to_numpy(), places, self.keys)
        self.skeleton = self._layout(facts, layout)
        self.fingerprint = digest(
            "\n".join(self.keys),
            facts["shard"].to_numpy(),
            *(p for _, *both in places.values() for p in both),
            self.label_ids,
        )

    def _stored(self, facts: pl.DataFrame, entries: Iterable[str], optional: set[str]) -> dict[str, str]:
        """Entry -> its name in the shards."""
        stored = {
            name.removeprefix("offset:").removesuffix(".npy"): name.removeprefix("offset:")
            for name in facts.columns
            if ":" in name
        }
        stored = {entry: name for entry, name in stored.items() if not entry.startswith(("size:", "shape:"))}
        names = {}
        for entry in dict.fromkeys(entries):
            if entry in stored:
                names[entry] = stored[entry]
            elif entry not in optional and not (entry in POSES and entry != self._pose):
                raise DatasetError(f"{self.name}: no sample has the entry {entry!r}{suggestion(entry, stored)}")
        return names

    def _with_somebody(self, facts: pl.DataFrame) -> pl.DataFrame:
        """The table without samples whose poses have no person or no frame."""
        column = f"shape:{self._columns[self._pose]}"
        if column not in facts.columns:
            return facts
        empty = pl.col(column).str.split(",").list.contains("0").fill_null(False)
        nobody, shown = facts.filter(empty), facts.filter(~empty)
        if len(nobody):
            remark(
                f"{self.name}: {len(nobody)} of {len(facts)} samples show nobody and are left out, for example "
                f"{nobody['key'][0]!r}"
            )
        return shown

    def _labelled(self, facts: pl.DataFrame, labels: Sequence[str] | None) -> tuple[pl.DataFrame, tuple[str, ...]]:
        """The table with label and label_id made complete from each other, and the class names."""
        if facts["label_id"].null_count() == len(facts) and facts["label"].null_count() < len(facts):
            names = sorted(set(facts["label"].drop_nulls().to_list())) if labels is None else list(labels)
            if unknown := sorted(set(facts["label"].drop_nulls().to_list()) - set(names)):
                raise TrainingError(f"{self.name}: unknown label {unknown[0]!r}{suggestion(unknown[0], names)}")
            ids = {name: number for number, name in enumerate(names)}
            column = pl.Series("label_id", [ids.get(name) for name in facts["label"].to_list()], dtype=pl.Int64)
            return facts.with_columns(column), tuple(names)
        pairs = dict(facts.select("label_id", "label").drop_nulls().unique().sort("label_id", "label").rows())
        keys = facts["key"].to_list()
        checked_ids(facts["label_id"].fill_null(-1).to_list(), lambda k: f"{self.name}: label_id of {keys[k]}")
        highest = facts["label_id"].max()
        count = 0 if highest is None else int(highest) + 1  # type: ignore[arg-type]
        return facts, names_of(count, labels or [pairs.get(k, str(k)) for k in range(count)], self.name)

    def _layout(self, facts: pl.DataFrame, layout: Layout) -> Skeleton:
        """`layout`, or else the one that the samples name, checked against the first sample's joints."""
        number = self._entries.read(np.zeros(1, np.int64))[self._pose][0].shape[2]
        named = sorted(set(facts["skeleton"].drop_nulls().to_list()))
        if layout is None and len(named) > 1:
            raise TrainingError(
                f'{self.name}: samples of different skeletons: {", ".join(named)}; choose one with where="skeleton = '
                f"'{named[0]}'\""
            )
        joints = (facts["joints"].drop_nulls().head(1).to_list() or [""])[0]
        return layout_of(
            layout or (named[0] if named else None), number, self.name, joints.split("\n") if joints else ()
        )

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order; arrays are read-only.

        Raises:
            DatasetError: a shard is torn or damaged, or cannot be reached.
        """
        rows = np.asarray(indices, np.int64)
        return clips_of(self._entries.read(rows), self._pose, rows, self.keys, self.label_ids, self._size, self._fps)
