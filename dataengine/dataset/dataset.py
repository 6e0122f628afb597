"""Reading a finished dataset: its tables as Polars frames, its samples by id or as a stream.

    ds = dataengine.open("builds/sample")
    ds.clips.group_by("label").len().collect()
    for sample in ds.samples(where="split = 'train' AND confidence_mean > 0.8", shuffle_seed=0):
        sample["keypoints"]

Samples are read by the byte ranges of the index: entries that are not asked for cost nothing, and any order is as fast
as the order of the file. Clips that were taken down are absent everywhere.
"""

from __future__ import annotations

import difflib
import functools
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from blake3 import blake3 as Hasher
from numpy.typing import NDArray

from dataengine.core.errors import DatasetError, suggestion
from dataengine.dataset.index import GROUP_ROWS, locate, read_manifest, tombstone_name
from dataengine.dataset.sql import matching
from dataengine.io.remote import MissingFileError, read_range
from dataengine.io.shards import decode, decode_entry, read_sample
from dataengine.io.storage import mapped

Numbers: TypeAlias = NDArray[np.int64]
EntryRanges: TypeAlias = dict[str, tuple[str, Numbers, Numbers]]

MAPS = 128
"""Most shards that are mapped at once; below 256, the strictest common limit of open files."""
GAP, SPAN = 1 << 18, 1 << 24
"""Consecutive remote samples share a request of up to SPAN bytes where at most GAP bytes between them are not
needed."""
CANDIDATES = 2000
"""Clip ids that are compared for a suggestion."""


def open(path: str | os.PathLike[str]) -> Dataset:
    """Open the dataset at a build's OUT, its `dataset` folder, or a url of either (http://, s3://, file:// and others).

    Raises:
        DatasetError: there is no dataset, it is incomplete, or it has another format version.
    """
    return Dataset(locate(path))


class Dataset:
    """A sealed dataset; `open` makes it.

    Attributes:
        root: folder or url that holds MANIFEST.json.
        manifest: the content of MANIFEST.json.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.manifest = read_manifest(root)
        self._remote = "://" in root
        self._fetched: dict[str, pl.DataFrame] = {}
        self._map = functools.lru_cache(maxsize=MAPS)(lambda shard: mapped(f"{root}/{shard}"))

    def __repr__(self) -> str:
        return f"Dataset({self.root!r}, {self.manifest['counts']})"

    @property
    def clips(self) -> pl.LazyFrame:
        """One row per clip (`dataengine.dataset.index.CLIPS`)."""
        return self.table("clips")

    @property
    def tracks(self) -> pl.LazyFrame:
        """One row per person of a clip (`dataengine.dataset.index.TRACKS` and share_<expert>)."""
        return self.table("tracks")

    @property
    def joints(self) -> pl.LazyFrame:
        """One row per joint of a track (`dataengine.dataset.index.JOINTS`)."""
        return self.table("joints")

    @property
    def rejects(self) -> pl.LazyFrame:
        """One row per planned clip that is not in the dataset (`dataengine.dataset.index.REJECTS`)."""
        return self.table("rejects")

    @property
    def tables(self) -> list[str]:
        """Names of the tables the dataset has: clips, tracks, joints, rejects, and accuracy of rendered sources."""
        return sorted(
            {file["path"].split("/")[1] for file in self.manifest["files"] if file["path"].startswith("index/")}
        )

    def table(self, name: str) -> pl.LazyFrame:
        """A table by name, without the clips that were taken down; `rejects`, which hold no data of clips, are whole.

        Raises:
            DatasetError: the dataset has no such table.
        """
        files = self._files(name)
        if self._remote:
            frame = pl.concat([self._fetch(file) for file in files]).lazy()
        else:
            frame = pl.scan_parquet([Path(self.root, file["path"]) for file in files], glob=False)
        gone = self.tombstones() if name != "rejects" else pl.DataFrame()
        return frame.join(gone.lazy(), on="clip_id", how="anti", maintain_order="left") if len(gone) else frame

    def _files(self, table: str) -> list[dict[str, Any]]:
        """The files of a table, as the manifest lists them."""
        files = [file for file in self.manifest["files"] if file["path"].startswith(f"index/{table}/")]
        if not files:
            raise DatasetError(f"{self.root}: no table {table!r}{suggestion(table, self.tables)}")
        return files

    def _parts(self, table: str) -> list[pl.LazyFrame]:
        """The files of a table one by one, clips that were taken down included."""
        if self._remote:
            return [self._fetch(file).lazy() for file in self._files(table)]
        return [pl.scan_parquet(Path(self.root, file["path"]), glob=False) for file in self._files(table)]

    def tombstones(self) -> pl.DataFrame:
        """The ids of clips taken down (column clip_id), as of now."""
        frames = [pl.DataFrame(schema={"clip_id": pl.String})]
        if self._remote:
            for number in range(10**5):
                try:
                    frames.append(self._fetch({"path": f"tombstones/{tombstone_name(number)}"}).select("clip_id"))
                except MissingFileError:
                    break
        else:
            frames += [
                pl.read_parquet(path, columns=["clip_id"])
                for path in sorted(Path(self.root, "tombstones").glob("*.parquet"))
            ]
        return pl.concat(frames).unique(maintain_order=True)

    def _fetch(self, file: dict[str, Any]) -> pl.DataFrame:
        """A remote Parquet file, kept in memory; its digest is compared with the manifest."""
        name = file["path"]
        if name not in self._fetched:
            data = read_range(f"{self.root}/{name}")
            if "blake3" in file and Hasher(data).hexdigest() != file["blake3"]:
                raise DatasetError(f"{self.root}/{name}: damaged: its blake3 is not the manifest's; copy it again")
            self._fetched[name] = pl.read_parquet(io.BytesIO(data))
        return self._fetched[name]

    def sample(self, clip_id: str) -> dict[str, Any]:
        """One sample, checked against its BLAKE3.

        Returns:
            clip_id, 'json' as a dict, and every array by name ('keypoints', 'scores' ...); arrays are read-only.

        Raises:
            DatasetError: there is no such clip, or its bytes are damaged.
        """
        row = (
            self.clips.filter(pl.col("clip_id") == clip_id).select("shard", "offset", "size", "blake3").collect().rows()
        )
        if not row:
            raise DatasetError(f"{self.root}: no clip {clip_id!r}{self._whereabouts(clip_id)}")
        shard, offset, size, digest = row[0]
        self._check_shards([shard])
        return {"clip_id": clip_id, **decode(read_sample(f"{self.root}/{shard}", offset, size, digest))}

    def _check_shards(self, shards: Sequence[str]) -> None:
        """Read shards of the manifest only: an index that came from elsewhere may name any file."""
        listed = {file["path"] for file in self.manifest["files"]}
        if unknown := sorted(set(shards) - listed):
            raise DatasetError(
                f"{self.root}: the index names the shard {unknown[0]!r}, which the manifest does not; "
                "run dataengine verify"
            )

    def _whereabouts(self, clip_id: str) -> str:
        if len(self.tombstones().filter(pl.col("clip_id") == clip_id)):
            return ": it was taken down"
        rejects = self.rejects.filter(pl.col("clip_id") == clip_id).select("pass", "reason").collect().rows()
        if rejects:
            return f": it was rejected in {rejects[0][0]} for {rejects[0][1]}"
        ids = self.clips.select("clip_id")
        # the clips around its position in the sorted index share its beginning
        behind = ids.filter(pl.col("clip_id") >= clip_id).head(CANDIDATES // 2)
        near = pl.concat([behind, ids.filter(pl.col("clip_id") < clip_id).tail(CANDIDATES // 2)])
        found = difflib.get_close_matches(clip_id, near.collect()["clip_id"].to_list(), n=1, cutoff=0.5)
        return (
            f" (did you mean {found[0]!r}?)"
            if found
            else "; list them with  dataengine audit OUT --sql 'SELECT clip_id FROM clips'"
        )

    def samples(
        self,
        where: str | None = None,
        entries: Sequence[str] = ("keypoints", "scores"),
        shuffle_seed: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Stream samples.

        Args:
            where: an SQL condition over the clips table, such as "split = 'train' AND num_people = 1".
            entries: what of each sample to read, 'json' among it if wanted.
            shuffle_seed: a seed for a full random order; without, samples come in the order they lie in the shards.

        Yields:
            clip_id and the given entries of each sample that has them. Arrays are read-only views: copy them to change
            them.

        Raises:
            DatasetError: the condition is no SQL, no clip has a given entry, or a shard is torn.
        """
        return self._stream(*self.entry_ranges(where, entries), shuffle_seed)

    def entry_ranges(
        self, where: str | None = None, entries: Sequence[str] = ("keypoints", "scores"), columns: Sequence[str] = ()
    ) -> tuple[pl.DataFrame, EntryRanges]:
        """Where the entries of the chosen clips lie, for readers of other packages.

        Args:
            where: an SQL condition over the clips table.
            entries: entries of each sample.
            columns: further columns of the clips table.

        Returns:
            The chosen clips (clip_id, shard and `columns`) in the order they lie in the shards, and by wanted entry its
            stored name and each clip's offset and size, (N,) int64 bytes from the shard's start, -1 where absent.

        Raises:
            DatasetError: the condition is no SQL, there is no such column, or no clip has a given entry.
        """
        if not entries:
            raise DatasetError(f"entries={entries!r} names no entry; read the clips table where no array is wanted")
        frame = self.clips
        given = list(dict.fromkeys(("clip_id", "shard", *columns)))
        if unknown := sorted(set(given) - set(frame.collect_schema().names())):
            raise DatasetError(
                f"{self.root}: no column {unknown[0]!r}{suggestion(unknown[0], frame.collect_schema().names())}"
            )
        wanted = list(dict.fromkeys((*given, "offset", "entries")))
        if where is not None:
            try:
                chosen = matching(frame, where, wanted)
            except DatasetError as error:
                raise DatasetError(f"where={where!r} cannot be used: {error}") from None
        else:
            chosen = frame.select(wanted).collect()
        chosen = chosen.sort("shard", "offset")
        return chosen.select(given), self._ranges_of(chosen, entries)

    def batches(self, columns: Sequence[str] = (), where: str | None = None) -> Iterator[pl.DataFrame]:
        """The clips table a few ten thousand rows at a time, in its order, for work on datasets of any size.

        Args:
            columns: columns of the clips table; clip_id is always among them.
            where: an SQL condition over the whole clips table.

        Yields:
            Frames of the columns, without the clips that were taken down.

        Raises:
            DatasetError: the condition is no SQL, or there is no such column.
        """
        names = list(dict.fromkeys(("clip_id", *columns)))
        parts = self._parts("clips")
        known = parts[0].collect_schema().names()
        if unknown := sorted(set(names) - set(known)):
            raise DatasetError(f"{self.root}: no column {unknown[0]!r}{suggestion(unknown[0], known)}")
        gone = self.tombstones()["clip_id"].implode()
        counts = [int(part.select(pl.len()).collect().item()) for part in parts]
        chosen = None if where is None else self._rows_that_match(where, parts, sum(counts))
        start = 0
        for part, count in zip(parts, counts):
            for first in range(0, count, GROUP_ROWS):
                frame = part.select(names).slice(first, GROUP_ROWS).collect()
                if chosen is not None:
                    frame = frame.filter(pl.Series(chosen[start + first : start + first + len(frame)]))
                yield frame.filter(~pl.col("clip_id").is_in(gone))
            start += count

    def _rows_that_match(self, where: str, parts: Sequence[pl.LazyFrame], count: int) -> NDArray[np.bool_]:
        """(count,) whether a row of the whole clips table fulfils an SQL condition; rows taken down do not."""
        frame = pl.concat(parts).with_row_index("row__")
        gone = self.tombstones().lazy()
        try:
            found = matching(frame.join(gone, on="clip_id", how="anti", maintain_order="left"), where, ["row__"])
        except DatasetError as error:
            raise DatasetError(f"where={where!r} cannot be used: {error}") from None
        mask = np.zeros(count, bool)
        mask[found["row__"].to_numpy()] = True
        return mask

    def read(self, rows: pl.DataFrame, entries: Sequence[str] = ("keypoints", "scores")) -> Iterator[dict[str, Any]]:
        """The samples of some rows of the clips table, in their order.

        Args:
            rows: with at least the columns clip_id, shard, offset and entries, as `batches` gives them.
            entries: what of each sample to read, 'json' among it if wanted.

        Yields:
            clip_id and the given entries of each sample that has them, as `samples` does.

        Raises:
            DatasetError: no clip has a given entry, or a shard is torn.
        """
        return self._stream(rows, self._ranges_of(rows, entries), None)

    def _ranges_of(self, chosen: pl.DataFrame, entries: Sequence[str]) -> EntryRanges:
        """Where entries of clips lie; see `entry_ranges`."""
        self._check_shards(chosen["shard"].unique().to_list())
        members = chosen["entries"].explode().drop_nulls().struct.unnest()
        owners = np.repeat(np.arange(len(chosen)), chosen["entries"].list.len().fill_null(0).to_numpy())
        names, offsets, sizes = members["name"], members["offset"].to_numpy(), members["size"].to_numpy()
        entry_ranges = {}
        stored = {name.removesuffix(".npy"): name for name in names.unique().to_list()}
        for entry in dict.fromkeys(entries):
            name = stored.get(entry.removesuffix(".npy"))
            if name is None and len(chosen):
                raise DatasetError(f"{self.root}: no sample has the entry {entry!r}{suggestion(entry, stored)}")
            mask = (names == name).to_numpy() if name else np.zeros(0, bool)
            ranges = np.full((2, len(chosen)), -1, np.int64)
            ranges[0, owners[mask]], ranges[1, owners[mask]] = offsets[mask], sizes[mask]
            entry_ranges[entry.removesuffix(".npy")] = (name or entry, ranges[0], ranges[1])
        return entry_ranges

    def _stream(
        self, chosen: pl.DataFrame, entry_ranges: EntryRanges, shuffle_seed: int | None
    ) -> Iterator[dict[str, Any]]:
        ids, shards = chosen["clip_id"].to_list(), chosen["shard"].to_list()
        order = (
            np.arange(len(ids)) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(len(ids))
        )
        wanted = [(key, name, offsets.tolist(), sizes.tolist()) for key, (name, offsets, sizes) in entry_ranges.items()]
        source = (
            self._ranges(shards, entry_ranges, order)
            if self._remote
            else ((row, self._map(shards[row]), 0) for row in order.tolist())
        )
        for row, data, base in source:
            sample = {"clip_id": ids[row]}
            for key, name, offsets, sizes in wanted:
                if (size := sizes[row]) >= 0:
                    start = offsets[row] - base
                    piece = data[start : start + size]
                    if len(piece) != size:
                        raise DatasetError(
                            f"{self.root}/{shards[row]}: torn: it ends before {name} of {ids[row]}; "
                            "run dataengine verify"
                        )
                    sample[key] = decode_entry(name, piece)
            yield sample

    def _ranges(
        self, shards: list[str], entry_ranges: EntryRanges, order: Numbers
    ) -> Iterator[tuple[int, memoryview, int]]:
        """(row, bytes, offset of these bytes in the shard) in the given order; neighbours in a shard share one
        request."""
        offsets = np.stack([offsets for _, offsets, _ in entry_ranges.values()])
        ends = offsets + np.stack([sizes for _, _, sizes in entry_ranges.values()])
        first = np.where(offsets < 0, np.iinfo(np.int64).max, offsets).min(axis=0)
        last = np.where(offsets < 0, 0, ends).max(axis=0)
        group: list[int] = []
        for row in [*order.tolist(), -1]:
            if group and not (
                row >= 0
                and shards[row] == shards[group[0]]
                and 0 <= first[row] - last[group[-1]] <= GAP
                and last[row] - first[group[0]] <= SPAN
            ):
                base = int(first[group[0]])
                data = memoryview(
                    read_range(f"{self.root}/{shards[group[0]]}", base, max(0, int(last[group[-1]]) - base))
                )
                yield from ((member, data, base) for member in group)
                group = []
            group.append(row)
