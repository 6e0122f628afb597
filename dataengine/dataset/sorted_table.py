"""A table of the index from rows in any order, within bounded memory.

Rows are spread over ranges of clip ids. A range is small enough to be sorted in memory, so a table of any size is
written range by range. The files are those that `dataengine.dataset.index.write_table` writes for the same rows.
"""

from __future__ import annotations

import bisect
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.dataset import index
from dataengine.dataset.index import Rows

RANGE_CLIPS = 1 << 14
"""Clips of a range. Their joints are the most rows that are sorted at once: about half a million."""
HELD_BYTES = 48 << 20
"""Rows that a table holds in memory before they are spilled to the scratch folder."""


def ranges(clip_ids: pa.Array | pa.ChunkedArray) -> list[str]:
    """Clip ids at which ranges end, of the clips whose rows are to be written; the last range has no end."""
    ordered = clip_ids.take(pc.sort_indices(clip_ids)) if len(clip_ids) > RANGE_CLIPS else clip_ids
    return [ordered[n].as_py() for n in range(RANGE_CLIPS, len(ordered), RANGE_CLIPS)]


class SortedTable:
    """Writes one table of the index, sorted, as part files.

    Args:
        folder: of the part files.
        schema: of the table.
        scratch: folder for spilled rows, which `write` removes.
        bounds: see `ranges`.
    """

    def __init__(self, folder: Path, schema: pa.Schema, scratch: Path, bounds: Sequence[str] = ()) -> None:
        self.folder, self.schema, self.scratch, self.bounds = folder, schema, scratch, list(bounds)
        self.num_rows = 0
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._spilled = False

    def add(self, rows: Rows) -> None:
        """Add rows: dicts, or an Arrow table with columns of the schema; a column that is not given is null.

        Raises:
            DatasetError: a row has a column that the schema lacks, or a value of another type.
        """
        table = index.checked(rows, self.schema, self.folder)
        self.num_rows += len(table)
        self._held.append(table)
        self._bytes += table.nbytes
        if self.bounds and self._bytes > HELD_BYTES:
            self._spill()

    def write(self) -> int:
        """Write the part files; the number of rows."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._spilled:
            self._spill()
        waiting, count, number = list[pa.Table](), 0, 0
        for table in self._sorted():
            waiting.append(table)
            count += len(table)
            while count >= index.PART_ROWS:
                together = pa.concat_tables(waiting)
                index.write_part(self.folder, number, together.slice(0, index.PART_ROWS))
                waiting, count, number = [together.slice(index.PART_ROWS)], count - index.PART_ROWS, number + 1
        if count or not number:
            index.write_part(self.folder, number, pa.concat_tables([self.schema.empty_table(), *waiting]))
            number += 1
        index.drop_parts(self.folder, number)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return self.num_rows

    def _sorted(self) -> Iterator[pa.Table]:
        if not self._spilled:
            held, self._held = self._held, []
            yield index.in_order(pa.concat_tables([self.schema.empty_table(), *held]))
            return
        for number in range(len(self.bounds) + 1):
            path = self._path(number)
            if path.exists():
                yield index.in_order(pa.concat_tables(_read(path)))
                path.unlink()

    def _path(self, number: int) -> Path:
        return self.scratch / f"{number:06d}.arrows"

    def _spill(self) -> None:
        """Append the rows in memory to the files of their ranges, each in the order in which they came."""
        if not self._held:
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        table = pa.concat_tables(self._held).combine_chunks()
        self._held, self._bytes, self._spilled = [], 0, True
        coded = table.column("clip_id").combine_chunks().dictionary_encode()
        places = np.array([bisect.bisect_right(self.bounds, clip_id) for clip_id in coded.dictionary.to_pylist()])
        numbers = places[coded.indices.to_numpy()]
        table = table.take(pa.array(np.argsort(numbers, kind="stable")))
        counts = np.bincount(numbers, minlength=len(self.bounds) + 1)
        start = 0
        for number, count in enumerate(counts.tolist()):
            if count:
                with self._path(number).open("ab") as file, pa.ipc.new_stream(file, self.schema) as writer:
                    writer.write_table(table.slice(start, count))
            start += count


def _read(path: Path) -> list[pa.Table]:
    """The tables that were appended to a file of spilled rows, in order."""
    tables = []
    with path.open("rb") as file:
        while file.peek(1):
            tables.append(pa.ipc.open_stream(file).read_all())
    return tables
