"""The records of takedowns of a build: `OUT/takedowns`, append-only, the only home of the records.

A record is a file of tombstones (`dataengine.dataset.index.write_tombstones`): clip ids with who asked, when and why,
numbered without gaps, each with the hash of the one before. It is on the disk before anything else changes.
`dataset/tombstones`, which readers look at, holds copies that are made again whenever they differ. So neither a dataset
that is removed, nor a build that is killed, loses a record. Builds of earlier versions have records in
`dataset/tombstones` alone; `adopt` takes those over.

A dataset that was copied without its build has no `takedowns`: there `dataset/tombstones` holds the records.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.core.errors import DatasetError
from dataengine.dataset.index import Rows, append_tombstones, records_in, tombstone_name
from dataengine.io.storage import clear_partials, file_hash, fsync_folder, write_durably

RECORDS = "takedowns"
"""Folder of the records in a build's OUT."""
ADOPTED = "adopted"
"""Key of a record that was found in a dataset alone and had to be numbered anew: the hash of the file it was."""


@dataclass(frozen=True)
class TakenDown:
    """Ids of clips and videos that must not come back, with the reasons given."""

    clips: Mapping[str, str]
    videos: Mapping[str, str]

    @staticmethod
    def of(out: Path) -> TakenDown:
        """What the records of a build say, and those of its dataset that were not taken over yet.

        Raises:
            DatasetError: a record cannot be read.
        """
        clips: dict[str, str] = {}
        videos: dict[str, str] = {}
        for folder in (out / "dataset" / "tombstones", out / RECORDS):
            for record in records_in(folder):
                why = str(record.get("reason", ""))
                clips |= dict.fromkeys(record["clip_ids"], why)
                videos |= dict.fromkeys(record.get("video_ids", ()), why)
        return TakenDown(clips, videos)

    def reason(self, clip_id: str, video_id: str) -> str | None:
        """Why a clip was taken down; None if it was not."""
        return self.clips.get(clip_id, self.videos.get(video_id))


def home(root: Path) -> Path | None:
    """The build that the dataset in the folder `root` belongs to, or None for a dataset that was copied alone."""
    signs = ("recipe.lock.toml", RECORDS, "work")
    return root.parent if root.name == "dataset" and any((root.parent / sign).exists() for sign in signs) else None


def add(out: Path, rows: Rows, record: Mapping[str, Any]) -> Path:
    """Write a record of a build, durably; nothing of the dataset changes yet.

    Raises:
        DatasetError: it cannot be written; nothing was changed.
    """
    folder = out / RECORDS
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            fsync_folder(out)
        return append_tombstones(folder, rows, record)
    except OSError as error:
        raise DatasetError(
            f"the takedown is not recorded: {error.strerror}, in {folder}; nothing was changed, so mend that and run "
            "the command again"
        ) from error


def adopt(out: Path) -> int:
    """Take over the records that lie in `OUT/dataset/tombstones` alone: those of builds of earlier versions.

    A record keeps its bytes where it follows those that are known; else it gets the next number, and says so.

    Returns:
        How many were taken over.

    Raises:
        DatasetError: a record there cannot be read, and is not known.
    """
    folder, found = out / RECORDS, sorted((out / "dataset" / "tombstones").glob("part-*.parquet"))
    known = {file_hash(path) for path in files(out)} | {str(r.get(ADOPTED)) for r in records_in(folder)}
    count = 0
    for path in found:
        digest = file_hash(path)
        if digest in known or ((damaged := not _readable(path)) and (folder / path.name).exists()):
            continue
        if damaged:
            raise DatasetError(
                f"{path} cannot be read, and {folder} has no such record: put it back from a copy, since building "
                "without it could bring clips back that were taken down"
            )
        _take_over(out, path, digest)
        count += 1
    return count


def _take_over(out: Path, path: Path, digest: str) -> None:
    """Add the record in `path`, a file of tombstones with that hash, to those of the build."""
    before, folder = files(out), out / RECORDS
    table = pq.read_table(path)
    record = json.loads((table.schema.metadata or {}).get(b"record", b"{}"))
    follows = record.get("previous") == (file_hash(before[-1]) if before else None)
    if follows and path.name == tombstone_name(len(before)):
        folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(out)
        write_durably(folder / path.name, path.read_bytes())
        return
    add(out, table.to_pylist(), {**record, ADOPTED: digest})


def derive(out: Path, dataset: Path) -> None:
    """Make the tombstones of a dataset those of the records of its build, byte by byte; nothing is ever missing
    meanwhile: new files come first."""
    folder = dataset / "tombstones"
    if folder.is_dir():
        clear_partials(folder)
    for path in reversed(files(out)):
        target = folder / path.name
        with contextlib.suppress(OSError):
            if target.read_bytes() == path.read_bytes():
                continue
        write_durably(target, path.read_bytes())


def clear(out: Path) -> None:
    """Remove what killed takedowns left unfinished; for who holds the lease."""
    folder = out / RECORDS
    if folder.is_dir():
        clear_partials(folder)
        for path in files(out):
            if not path.stat().st_size:  # a name that was claimed, but not written to
                path.unlink()


def files(out: Path) -> list[Path]:
    """The files of the records of a build, in order."""
    return sorted((out / RECORDS).glob("part-*.parquet"))


def check_records(out: Path, dataset: Path) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of the records of a build, and of tombstones that are not theirs."""
    again = "run dataengine build again, or dataengine gc, which make it anew"
    for path, what in check_chain(out / RECORDS):
        yield f"{RECORDS}/{path.name}", what
    names = {path.name for path in files(out)}
    for path in files(out):
        copy = dataset / "tombstones" / path.name
        if not copy.is_file():
            yield f"tombstones/{path.name}", f"missing: {RECORDS} has the record; {again}"
        elif copy.read_bytes() != path.read_bytes():
            yield f"tombstones/{path.name}", f"is not what {RECORDS} has under that name; {again}"
    for path in sorted((dataset / "tombstones").glob("part-*.parquet")):
        if names and path.name not in names:
            yield f"tombstones/{path.name}", f"is no record of {RECORDS} yet; {again}"


def check_chain(folder: Path) -> Iterator[tuple[Path, str]]:
    """(path, what is wrong) of a folder of tombstones: numbers, columns, and the hash of the file before in each."""
    previous = None
    for number, path in enumerate(sorted(folder.glob("*"))):
        if path.name != tombstone_name(number):
            yield path, f"is not the next in number, which is {tombstone_name(number)}"
        try:
            schema = pq.read_schema(path)
            if "clip_id" not in schema.names or pq.read_table(path)["clip_id"].null_count:
                yield path, "columns are not those of this format: clip_id, reason"
            record = json.loads((schema.metadata or {}).get(b"record", b"{}"))
            if record.get("previous", previous) != previous:
                yield path, "its record does not follow from the file before it: one of them was changed or replaced"
            previous = file_hash(path)
        except (OSError, ValueError) as error:
            yield path, f"cannot be read: {str(error).splitlines()[0]}"


def _is_copy(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a file of tombstones is a copy of a record that was damaged or changed: of the same clips and time."""
    if not _readable(path):
        return True
    table = pq.read_table(path)
    own = json.loads((table.schema.metadata or {}).get(b"record", b"{}"))
    return [own.get("time"), table.column("clip_id").to_pylist()] == [record.get("time"), record["clip_ids"]]


def _readable(path: Path) -> bool:
    try:
        pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return False
    return True
